"""What the verification of an output found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tsjax.wording import counted

_MOST_PROBLEMS = 100


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        path: the output.
        problems: what is wrong, one sentence each; the first hundred.
        shards, rows, rejected: what was looked at.
        input_rows: rows of the input that the shards are made of, rejected ones included.
        compared: whether the ids were compared with the input's.
        advice: how to go on with a job that has not finished; empty where it has.
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
        """As plain JSON values."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """That all is well."""
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
        """Count a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)
