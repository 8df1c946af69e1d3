"""``tsjax search``: an exact search over the shards that ``tsjax batch`` wrote, for a first look."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tsjax.cli.options import add_compile_cache_option, add_device_options
from tsjax.errors import CheckpointError

# The exit status if the output that was searched is not finished.
UNFINISHED = 3


def add(commands: Any) -> None:
    command = commands.add_parser(
        "search",
        help="the texts most like a question, among the shards of a job",
        description="Compare a question with every vector that tsjax batch made, and print the most similar rows. If "
        "the output is not finished, the shards that are there are searched, standard error says what is missing, and "
        f"the exit status is {UNFINISHED}. A damaged shard is an error.",
        epilog='example: tsjax search build/demo "what makes attention sharper?"',
    )
    command.set_defaults(command=run)
    command.add_argument("output", metavar="OUT", help="the output of tsjax batch")
    command.add_argument("question", metavar="QUESTION", help="what to look for")
    command.add_argument("-n", "--count", metavar="N", type=int, default=10, help="how many rows (default: 10)")
    command.add_argument("--model", metavar="M", help="where the model is, if not where the job found it")
    command.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a row: score, id and the kept columns, but for one that is named score itself; where the "
        'output is not finished, a last one says so: {"finished": false, "missing": [...]}',
    )
    add_device_options(command)
    add_compile_cache_option(command)


def run(options: argparse.Namespace) -> int:
    from tsjax.cli.options import load_model
    from tsjax.jobs.inspect.search import search
    from tsjax.jobs.inspect.status import status
    from tsjax.jobs.output.directory import Output
    from tsjax.temperature import Temperature

    output = Output(options.output)
    job = output.job()
    facts = job.facts["model"]
    manifests = output.read_manifests().values()
    found = next(iter(manifests)).started_with.model
    given = {
        "model": options.model or found.get("model"),
        "revision": found.get("revision"),
        "local_files_only": found.get("local_files_only", False),
        "ignore_config_field": found.get("ignore_config_fields", []),
        "ignore_weight": found.get("ignore_weights", []),
        "adapter": found.get("adapter", found.get("task")),  # the field's original name
        "position_stride": found.get("position_stride"),
        "temperature": Temperature.from_json(facts["query_temperature"]),
        "dtype": facts["dtype"],
        "max_seq_length": facts["max_seq_length"],
        "truncate_dim": facts["truncate_dim"],
        "token_budget": None,
    }
    model = load_model(argparse.Namespace(**{**vars(options), **given}))
    # Queries may have their own encoder, but the documents' encoder has to be the one that made the vectors.
    documents = model.route(facts["task"])
    if documents.header.fingerprint != facts["fingerprint"]:
        raise CheckpointError(f"{given['model'] or 'the default model'} is not the model that made {options.output}")
    query = model.encode_query(
        [options.question], normalize_embeddings=job.facts["options"]["normalize"], show_progress_bar=False
    )[0]
    # Determined before the shards are read. Shards that are written later may be found; this is not guaranteed.
    if missing := status(output, ask_locks=False).missing:
        more = f" (and {len(missing) - 1:,} more; tsjax batch status lists them)" if len(missing) > 1 else ""
        print(
            f"tsjax: {options.output} is not finished, so there may be better rows: {missing[0]}{more}", file=sys.stderr
        )
    for hit in search(output, query, options.count, documents.similarity_fn_name, partial=bool(missing)):
        if options.json:
            # The standard names of a hit win over a kept column of the same name.
            content = {"score": hit.score, "id": hit.id}
            print(json.dumps({**content, **hit.columns, **content}, ensure_ascii=False, default=str))
        else:
            kept = "".join(f"  {_short(value)}" for value in hit.columns.values())
            print(f"{hit.score:8.4f}  {hit.id}{kept}")
    if missing and options.json:
        print(json.dumps({"finished": False, "missing": missing}, ensure_ascii=False))
    return UNFINISHED if missing else 0


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
