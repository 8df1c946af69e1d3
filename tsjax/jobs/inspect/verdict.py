"""The result of the verification of an output."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tsjax.wording import counted

_MOST_PROBLEMS = 100


@dataclass
class Verdict:
    """The result of `verify`.

    Attributes:
        path: the path of the output.
        problems: the problems, one sentence each; the first hundred.
        shards, rows, rejected: number of shards, vectors and rejected rows that were checked.
        input_rows: number of input rows that the shards are made of, including rejected ones.
        compared: whether the ids were compared with those of the input.
        advice: advice for a job that has not finished; empty if it has finished.
    """

    path: str
    problems: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    rejected: int = 0
    input_rows: int = 0
    compared: bool = False
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """Return a sentence that says that the output is complete and correct."""
        some = f"the {counted(self.input_rows - self.rejected, 'row')} of the input not rejected"
        ids = (
            f"every id of {some if self.rejected else 'the input'} exactly once, every line of the input in a row"
            if self.compared
            else "no id twice (not compared with the input)"
        )
        return (
            f"{self.path} is whole and sound: {counted(self.shards, 'shard')}, {counted(self.rows, 'vector')}, "
            f"{counted(self.rejected, 'row')} rejected, {ids}"
        )

    def add(self, problem: str) -> None:
        """Add a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)
