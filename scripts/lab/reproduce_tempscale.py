"""TempScale's experiment, run again: its models on MTEB's English tasks and LongEmbed's real ones, for a grid of τ.

    python -m scripts.lab.reproduce_tempscale [--models NAME,…] [--temperatures 1,0.9,…] [--columns STS,…] \
        [--results DIR]

Source: "Length-Induced Embedding Collapse in Transformer-based Models", arXiv:2410.24200. Needs the Hugging Face hub,
for models and for data, and the extra ``mteb``. Each model, τ and task is a result of its own, a file in DIR
(build/tempscale), so that a run that was stopped goes on where it was; what is in DIR already is only shown.

All figures are measured here; none is the paper's. Of the paper's protocol not all is known to us:

- The models are five of the families and sizes that it names; their names on the hub are the likely ones.
- Its τ for each model was found by a sweep; on what is not known. The table shows the τ with the best mean over the
  very tasks that it reports, which flatters τ. ``--select-on STS`` chooses τ on some columns, and the means of the
  others are then free of that.
- The tasks are those of the benchmark "MTEB(eng, v1)" in the six types that it names, more than the paper's 40.
- Prompts are the models' own: e5's everywhere, bge's instruction for queries of retrieval. Whether the paper had them
  is not known.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import re
import statistics
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mteb

import tsjax
from tsjax.integrations.mteb import Model
from tsjax.storage.atomic import expanded, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Options of `tsjax.load`, by model.
MODELS: dict[str, dict[str, Any]] = {
    "sentence-transformers/msmarco-roberta-base-ance-firstp": {},
    "sentence-transformers/gtr-t5-base": {},
    "avsolatorio/GIST-Embedding-v0": {},
    "BAAI/bge-base-en-v1.5": {
        "prompts": {"Retrieval-query": "Represent this sentence for searching relevant passages: "}
    },
    "dwzhu/e5-base-4k": {
        "prompts": {"query": "query: ", "document": "passage: "},
        "default_prompt_name": "query",
    },
}
TEMPERATURES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
TYPES = ("Classification", "Clustering", "Reranking", "Retrieval", "STS", "Summarization")
LONG = ("LEMBNarrativeQARetrieval", "LEMBQMSumRetrieval", "LEMBWikimQARetrieval", "LEMBSummScreenFDRetrieval")

Columns: TypeAlias = "Mapping[str, Sequence[Any]]"


class UnreachableError(Exception):
    """A model or a data set that is neither here nor to be had."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is known of a model.

    Attributes:
        model: its name.
        by_temperature: main scores, 0 to 1, by τ, column and task.
    """

    model: str
    by_temperature: dict[float, dict[str, dict[str, float]]]


def standard_columns() -> dict[str, list[Any]]:
    """The tasks of each column of the table."""
    tasks = list(mteb.get_benchmark("MTEB(eng, v1)").tasks)
    columns = {kind: [task for task in tasks if task.metadata.type == kind] for kind in TYPES}
    return {**columns, "LongEmbed": list(mteb.get_tasks(tasks=list(LONG)))}


def result_path(results: Path, model: str, temperature: float, task: str) -> Path:
    """Where a result is kept."""
    return results / re.sub(r"[^\w.-]+", "__", model.strip("/")) / f"tau-{temperature:g}" / f"{task}.json"


def measure(
    models: Mapping[str, dict[str, Any]],
    temperatures: Sequence[float],
    columns: Columns,
    results: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Write every result that is missing; a task's data are loaded once for all τ, and a model only if it is needed.

    Raises:
        UnreachableError: a model or a task's data cannot be had; results so far are kept.
    """
    for model, options in models.items():
        embedder = None
        for task in (task for tasks in columns.values() for task in tasks):
            missing = [t for t in temperatures if not result_path(results, model, t, task.metadata.name).exists()]
            if not missing:
                continue
            embedder = embedder or _reached(model, tsjax.load, model, **options)
            say(f"{model}, {task.metadata.name}: τ {', '.join(f'{t:g}' for t in missing)}")
            # A task of several has no data of its own, and looks after theirs.
            several = hasattr(task.metadata, "tasks")
            if not several:
                _reached(task.metadata.name, task.load_data)
            for temperature in missing:
                content = _reached(task.metadata.name, evaluate, embedder, temperature, task)
                path = result_path(results, model, temperature, task.metadata.name)
                with replacing(path, overwrite=True) as partial:
                    partial.write_text(json.dumps({"model": model, "options": options, **content}, indent=1) + "\n")
            if not several:
                task.unload_data()


def evaluate(embedder: Any, temperature: float, task: Any) -> dict[str, Any]:
    """One result, as JSON: the main score and all others, and by what they were made."""
    model = Model(embedder, temperature=temperature)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        [result] = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    return {
        "temperature": temperature,
        "task": task.metadata.name,
        "main_score": float(result.get_score()),
        "scores": json.loads(json.dumps(result.scores, default=float)),
        "dataset_revision": result.dataset_revision,
        "fingerprint": model.embedder.encoding_fingerprint,
        "versions": {name: importlib.metadata.version(name) for name in ("tsjax", "jax", "mteb")},
    }


def _reached(what: str, get: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What ``get`` gives, or an UnreachableError where the network or the hub is in the way."""
    try:
        return get(*arguments, **options)
    except Exception as error:
        # Each library on the way has errors of its own for this, some of them private.
        chain = [error, error.__cause__, error.__context__]
        names = {kind.__name__ for each in chain if each is not None for kind in type(each).__mro__}
        if names & {
            "ConnectionError",
            "OfflineModeIsEnabled",
            "ModelNotFoundError",
            "TransportError",
            "HfHubHTTPError",
        }:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnreachableError(f"{what} is not here and cannot be fetched: {first}") from error
        raise


def read(
    models: Mapping[str, dict[str, Any]], temperatures: Sequence[float], columns: Columns, results: Path
) -> list[Scores]:
    """The results that there are.

    Raises:
        ValueError: one of them was made with other options of the model.
    """
    found = []
    for model, options in models.items():
        scores: dict[float, dict[str, dict[str, float]]] = {t: {name: {} for name in columns} for t in temperatures}
        for temperature, by_column in scores.items():
            for name, tasks in columns.items():
                for task in tasks:
                    path = result_path(results, model, temperature, task.metadata.name)
                    if path.exists():
                        content = json.loads(path.read_text(encoding="utf-8"))
                        if content["options"] != options:
                            raise ValueError(f"{path} was made with other options of the model; remove it")
                        by_column[name][task.metadata.name] = content["main_score"]
        found.append(Scores(model, scores))
    return found


def best_temperature(scores: Scores, columns: Columns, select_on: Sequence[str]) -> float | None:
    """The τ with the best mean over the tasks of some columns, of those τ that have a result for each; 1 for a tie."""
    expected = sum(len(columns[name]) for name in select_on)
    means = {}
    for temperature, by_column in scores.by_temperature.items():
        values = [x for name in select_on for x in by_column[name].values()]
        if values and len(values) == expected:
            means[temperature] = statistics.mean(values)
    return max(means, key=lambda t: (means[t], t == 1), default=None)


def table(found: Sequence[Scores], columns: Columns, select_on: Sequence[str]) -> Iterator[str]:
    """Lines of Markdown, as the paper's table is built: each model, beneath it the same with TempScale.

    Scores are × 100; a mean over tasks of which some have no result yet is not given.
    """
    yield "| model | τ | " + " | ".join(f"{name} ({len(tasks)})" for name, tasks in columns.items()) + " | mean |"
    yield "|" + "---|" * (len(columns) + 3)
    for scores in found:
        best = best_temperature(scores, columns, select_on)
        for label, temperature in ((scores.model, 1.0), ("+ TempScale", best)):
            if temperature is None or temperature not in scores.by_temperature:
                yield f"| {label} |" + " – |" * (len(columns) + 2)
                continue
            by_column = scores.by_temperature[temperature]
            cells = [_mean(list(by_column[name].values()), len(tasks)) for name, tasks in columns.items()]
            every = [x for values in by_column.values() for x in values.values()]
            cells.append(_mean(every, sum(map(len, columns.values()))))
            yield f"| {label} | {temperature:g} | " + " | ".join(cells) + " |"


def _mean(values: Sequence[float], expected: int) -> str:
    return f"{100 * statistics.mean(values):.2f}" if values and len(values) == expected else "–"


def main(arguments: Sequence[str] | None = None, columns: Columns | None = None) -> None:
    """Measure what is missing, and print the table; without the hub, say so and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", metavar="NAME,…", default=",".join(MODELS), help="or directories")
    parser.add_argument("--temperatures", metavar="τ,…", default=",".join(map(str, TEMPERATURES)))
    parser.add_argument("--columns", metavar="NAME,…", help=f"of {', '.join(TYPES)} and LongEmbed; all of them")
    parser.add_argument("--select-on", metavar="NAME,…", help="columns by which τ is chosen; all that are shown")
    parser.add_argument("--results", type=expanded, default=Path("build/tempscale"), help="(build/tempscale)")
    options = parser.parse_args(arguments)
    every = standard_columns() if columns is None else columns
    shown = list(every) if options.columns is None else options.columns.split(",")
    select_on = shown if options.select_on is None else options.select_on.split(",")
    if unknown := [name for name in (*shown, *select_on) if name not in every or name not in shown]:
        parser.error(f"{unknown[0]!r} is none of the columns {', '.join(every if unknown[0] in shown else shown)}")
    chosen = {name: every[name] for name in shown}
    models = {name: MODELS.get(name, {}) for name in options.models.split(",")}
    # Without τ = 1 there is nothing to compare with.
    temperatures = sorted({1.0, *map(float, options.temperatures.split(","))}, reverse=True)
    problem = None
    try:
        measure(models, temperatures, chosen, options.results)
    except UnreachableError as error:
        problem = (
            f"{error}\nThis needs the Hugging Face hub; results so far are in {options.results}: run it again online."
        )
    for line in table(read(models, temperatures, chosen, options.results), chosen, select_on):
        print(line)
    print(f"\nMeasured here, main scores × 100; τ of each model chosen on: {', '.join(select_on)}.")
    if problem is not None:
        sys.exit(problem)


if __name__ == "__main__":
    main()
