"""Tables that scripts measure and the README shows, each between a pair of markers."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def write_table(name: str, lines: list[str]) -> None:
    """Replace the text between ``<!-- name: begin -->`` and ``<!-- name: end -->`` by the lines."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, found, rest = README.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{README} has no markers for the table {name!r}")
    README.write_text("".join([before, begin, *(f"{line}\n" for line in lines), end, after]), encoding="utf-8")
