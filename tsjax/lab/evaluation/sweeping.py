"""Temperature sweep: τ is chosen on one part of a task's items and reported on another that the choice never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsjax.errors import InputError
from tsjax.lab.evaluation.bootstrap import Interval, independent, paired_difference
from tsjax.lab.evaluation.candidates import BASELINE, Candidate, grid
from tsjax.lab.evaluation.embedding import Embedding, Truncated
from tsjax.lab.evaluation.lengths import buckets, item_lengths
from tsjax.lab.evaluation.outcomes import Outcome, score
from tsjax.temperature import Temperature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from jaxtyping import Int

    from tsjax.lab.evaluation.split import Part, Split
    from tsjax.lab.evaluation.tasks import Encoder, Task
    from tsjax.temperature import TemperatureLike

_LEAST_IN_BUCKET = 10  # independent items; with fewer, an interval is not informative


@dataclass(frozen=True)
class Scored:
    """Scores of a candidate.

    Attributes:
        candidate: the temperature.
        validation: its score on the part that τ is chosen on, 0 to 1 (a correlation: -1 to 1).
        held_out: its score on the other part.
        gain: its gain over τ = 1 on the held-out part.
    """

    candidate: Candidate
    validation: float
    held_out: float
    gain: Interval


@dataclass(frozen=True)
class InBucket:
    """Held-out items of similar length, at τ = 1 and at the temperature that did best on the validation part.

    Attributes:
        start: the smallest length in tokens.
        end: the exclusive upper bound of the length in tokens.
        items: the number of items.
        baseline: their score at τ = 1; NaN if it is undefined for this number of items.
        best: their score at the other temperature.
        gain: the difference; None for fewer than ten independent items.
    """

    start: int
    end: int
    items: int
    baseline: float
    best: float
    gain: Interval | None


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        kind: the kind of the task.
        measure: the measure of the task.
        unit: the plural noun for the items.
        seed: the seed of the split and of the bootstrap.
        validation_items: the number of items that τ was chosen on.
        held_out_items: the number of items that the scores were reported on.
        held_out_independent: the effective number of independent held-out items; lower where they share texts.
        scored: every candidate; the first is τ = 1.
        best: the candidate that did best on the validation part.
        by_length: the held-out items by length.
        truncated: the numbers of truncated texts.
        max_seq_length: the length in tokens at which texts were truncated.
        notes: other facts that a reader of the scores should know.
    """

    kind: str
    measure: str
    unit: str
    seed: int
    validation_items: int
    held_out_items: int
    held_out_independent: int
    scored: tuple[Scored, ...]
    best: Scored
    by_length: tuple[InBucket, ...]
    truncated: Truncated
    max_seq_length: int
    notes: tuple[str, ...]

    @property
    def baseline(self) -> Scored:
        """Return the scores of τ = 1."""
        return self.scored[0]

    @property
    def chosen(self) -> Candidate:
        """Return the best candidate on validation if it gains beyond noise on the held-out part, else τ = 1."""
        return self.best.candidate if self.best.gain.verdict > 0 else BASELINE


def sweep(
    embedder: Encoder,
    task: Task,
    candidates: Sequence[Candidate] | None = None,
    *,
    seed: int = 0,
    report: Callable[[str], object] = lambda message: None,
    show_progress_bar: bool = False,
) -> SweepResult:
    """Choose a temperature for a task.

    Args:
        embedder: an embedding model; its own temperature does not matter.
        task: the task to choose a temperature for.
        candidates: from `grid`; None for the default grid. τ = 1 is always tried.
        seed: the seed of the split and of the bootstrap.
        report: called with progress messages.
        show_progress_bar: whether to show a bar for each embedding.

    Raises:
        InputError: the task cannot be split, or a candidate does not fit the task or the model.
        MissingExtraError: a package that computes the measure is not installed.
    """
    candidates = with_baseline(grid() if candidates is None else candidates)
    check_sides(task, candidates)
    split = task.split(seed)
    embedding = Embedding(embedder, task, report=report, show_progress_bar=show_progress_bar)
    outcomes = _outcomes(embedding, task, split, embedder, [c.temperature for c in candidates])
    validation = [score(outcome, split.validation) for outcome in outcomes]
    best = choose(candidates, validation)
    report(f"drawing {len(split.held_out):,} held-out {task.unit} again and again, for the intervals")
    scored = tuple(
        Scored(
            candidate, value, score(one, split.held_out), paired_difference(one, outcomes[0], split.held_out, seed=seed)
        )
        for candidate, value, one in zip(candidates, validation, outcomes, strict=True)
    )
    return SweepResult(
        kind=task.kind,
        measure=task.measure,
        unit=task.unit,
        seed=seed,
        validation_items=len(split.validation),
        held_out_items=len(split.held_out),
        held_out_independent=int(independent(outcomes[0], split.held_out)),
        scored=scored,
        best=scored[best],
        by_length=_by_length(task, embedder, outcomes[best], outcomes[0], split.held_out, seed),
        truncated=embedding.truncated,
        max_seq_length=embedder.max_seq_length,
        notes=(*task.notes, *task.sharing),
    )


@dataclass(frozen=True)
class Compared:
    """Score of a named temperature.

    Attributes:
        temperature: the temperature.
        score: its score on the part.
        gain: its gain over τ = 1 on the same part.
    """

    temperature: Temperature
    score: float
    gain: Interval


def compare(
    embedder: Encoder,
    task: Task,
    temperatures: Mapping[str, TemperatureLike],
    *,
    part: Part = "held-out",
    seed: int = 0,
    report: Callable[[str], object] = lambda message: None,
    show_progress_bar: bool = False,
) -> dict[str, Compared]:
    """Score temperatures that were chosen or learned beforehand, each with a paired interval against τ = 1.

    Args:
        embedder: see `sweep`.
        task: see `sweep`.
        temperatures: values that `tsjax.Temperature.of` accepts, by name.
        part: ``held-out``, ``validation`` or ``all``; the split is that of `sweep` with the same seed.
        seed: the seed of the split and of the bootstrap.
        report: see `sweep`.
        show_progress_bar: see `sweep`.

    Raises:
        InputError: see `sweep`; also if the part is unknown, or is ``all`` for a task whose parts are apart, such as a
            clustering.
    """
    split = task.split(seed)
    items = split.part(part)
    wanted = {name: Temperature.of(value) for name, value in temperatures.items()}
    embedding = Embedding(embedder, task, report=report, show_progress_bar=show_progress_bar)
    distinct = list(dict.fromkeys([Temperature(), *wanted.values()]))
    outcomes = dict(zip(distinct, _outcomes(embedding, task, split, embedder, distinct), strict=True))
    return {
        name: Compared(
            temperature,
            score(outcomes[temperature], items),
            paired_difference(outcomes[temperature], outcomes[Temperature()], items, seed=seed),
        )
        for name, temperature in wanted.items()
    }


def with_baseline(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates with τ = 1 as the first."""
    return (BASELINE, *(one for one in candidates if one.temperature != BASELINE.temperature))


def check_sides(task: Task, candidates: Sequence[Candidate]) -> None:
    """Raise an InputError if a candidate is for one side only and the task has no sides."""
    if not task.queries and (sided := next((c for c in candidates if c.side != "both"), None)):
        raise InputError(f"{task.kind} has no queries and documents, so the side {sided.side!r} has no meaning for it")


def choose(candidates: Sequence[Candidate], validation: Sequence[float]) -> int:
    """Return the index of the candidate with the highest validation score, the only data that a choice may use.

    Among equal scores, the candidate nearest to τ = 1 is chosen, which changes the model least.

    Raises:
        InputError: a score is not finite, so it cannot be compared.
    """
    for candidate, value in zip(candidates, validation, strict=True):
        if not math.isfinite(value):
            raise InputError(f"{candidate} has no score on the validation part ({value}), so nothing can be chosen")

    def worth(place: int) -> tuple[float, float, bool]:
        candidate = candidates[place]
        return validation[place], -abs(math.log(candidate.tau)), candidate.law == "none"

    return max(range(len(candidates)), key=worth)


def _outcomes(
    embedding: Embedding, task: Task, split: Split, embedder: Encoder, temperatures: Sequence[Temperature]
) -> list[Outcome]:
    """Return the outcome of each temperature, in the order of the temperatures."""
    found: dict[int, Outcome] = {}
    for place, vectors in embedding.pairs(temperatures):
        found[place] = task.outcome(vectors, split, embedder)
    return [found[place] for place in range(len(temperatures))]


def _by_length(
    task: Task,
    embedder: Encoder,
    best: Outcome,
    baseline: Outcome,
    items: Int[np.ndarray, " items"],
    seed: int,
) -> tuple[InBucket, ...]:
    rows = []
    for bucket in buckets(item_lengths(task, embedder), items):
        before, after = score(baseline, bucket.items), score(best, bucket.items)
        known = independent(best, bucket.items) >= _LEAST_IN_BUCKET and math.isfinite(after - before)
        gain = paired_difference(best, baseline, bucket.items, seed=seed) if known else None
        if gain is not None and not math.isfinite(gain.low):  # no draw has a value
            gain = None
        rows.append(InBucket(bucket.start, bucket.end, len(bucket.items), before, after, gain))
    return tuple(rows)
