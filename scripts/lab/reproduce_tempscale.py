"""TempScale's experiment: its models on MTEB's English tasks and LongEmbed's real tasks, for a grid of τ.

    python -m scripts.lab.reproduce_tempscale [--models NAME,…] [--temperatures 1,0.9,…] [--columns STS,…] \
        [--results DIR]

Source: "Length-Induced Embedding Collapse in Transformer-based Models", arXiv:2410.24200. Requires the Hugging Face
hub, for models and for data, and the extra ``mteb``. Each model, τ and task is a separate result, a file in DIR
(build/tempscale), so an interrupted run can be resumed. Existing results in DIR are only shown.

All figures are measured here; no figure is copied from the paper. Parts of the paper's protocol are not known to us:

- The models are five of the families and sizes that it names; their names on the hub are the likely ones.
- Its τ for each model was found by a sweep; the data of that sweep are not known. The table shows the τ with the best
  mean over the same tasks that it reports, which favours τ. ``--select-on STS`` chooses τ on some columns; the means of
  the other columns are then free of that bias.
- The tasks are those of the benchmark "MTEB(eng, v1)" in the six types that it names, more than the paper's 40.
- Prompts are the models' own: e5's for all tasks, bge's instruction for queries of retrieval. It is not known whether
  the paper used them.
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
    """A model or a data set that is neither stored here nor reachable."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The results of a model.

    Attributes:
        model: name of the model.
        by_temperature: main scores, 0 to 1, by τ, column and task.
    """

    model: str
    by_temperature: dict[float, dict[str, dict[str, float]]]


def standard_columns() -> dict[str, list[Any]]:
    """Return the tasks of each column of the table."""
    tasks = list(mteb.get_benchmark("MTEB(eng, v1)").tasks)
    columns = {kind: [task for task in tasks if task.metadata.type == kind] for kind in TYPES}
    return {**columns, "LongEmbed": list(mteb.get_tasks(tasks=list(LONG)))}


def result_path(results: Path, model: str, temperature: float, task: str) -> Path:
    """Return the path of a result."""
    return results / re.sub(r"[^\w.-]+", "__", model.strip("/")) / f"tau-{temperature:g}" / f"{task}.json"


def measure(
    models: Mapping[str, dict[str, Any]],
    temperatures: Sequence[float],
    columns: Columns,
    results: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Write every missing result; load a task's data once for all τ, and a model only if it is needed.

    Raises:
        UnreachableError: a model or a task's data cannot be reached; earlier results are kept.
    """
    for model, options in models.items():
        embedder = None
        for task in (task for tasks in columns.values() for task in tasks):
            missing = [t for t in temperatures if not result_path(results, model, t, task.metadata.name).exists()]
            if not missing:
                continue
            embedder = embedder or _reached(model, tsjax.load, model, **options)
            say(f"{model}, {task.metadata.name}: τ {', '.join(f'{t:g}' for t in missing)}")
            # An aggregate task has no data itself, and loads the data of its parts.
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
    """Return one result as JSON: the main score, all other scores, and their provenance."""
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
    """Return the result of ``get``; raise an UnreachableError if the network or the hub fails."""
    try:
        return get(*arguments, **options)
    except Exception as error:
        # Each library involved has its own errors for this, some of them private.
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
    """Return the existing results.

    Raises:
        ValueError: a result was made with other options of the model.
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
    """Return the τ with the best mean over the tasks of some columns, among those with all results; 1 for a tie."""
    expected = sum(len(columns[name]) for name in select_on)
    means = {}
    for temperature, by_column in scores.by_temperature.items():
        values = [x for name in select_on for x in by_column[name].values()]
        if values and len(values) == expected:
            means[temperature] = statistics.mean(values)
    return max(means, key=lambda t: (means[t], t == 1), default=None)


def table(found: Sequence[Scores], columns: Columns, select_on: Sequence[str]) -> Iterator[str]:
    """Yield lines of Markdown in the structure of the paper's table: each model, and below it the model with TempScale.

    Scores are × 100. A mean is omitted if some of its tasks have no result yet.
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
    """Measure the missing results and print the table; without the hub, report this and print the existing results."""
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
    # Without τ = 1 there is no baseline.
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
