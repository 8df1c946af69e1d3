"""What the verification of an output found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

_MOST_PROBLEMS = 100


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        path: the output.
        problems: what is wrong, one sentence each; the first hundred.
        shards, rows, rejected: what was looked at.
        compared: whether the ids were compared with the input's.
    """

    path: str
    problems: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    rejected: int = 0
    compared: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """That all is well."""
        ids = (
            "every id of the input exactly once, every line of it in a row"
            if self.compared
            else "no id twice (not compared with the input)"
        )
        return (
            f"{self.path} is whole and sound: {self.shards:,} shards, {self.rows:,} vectors, {self.rejected:,} rows "
            f"rejected, {ids}"
        )

    def add(self, problem: str) -> None:
        """Count a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)
