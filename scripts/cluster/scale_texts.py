"""A corpus of many real short texts from Debian's packages: the input of `scale_run.py`.

| from | texts |
|---|---|
| the package lists | 63,000 lines that say what a package is |
| dict-wn | 147,000 entries of WordNet |
| dict-foldoc | 12,000 of a dictionary of computing |
| fortunes | 13,000 quotations and jokes |
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.lab.data import UnavailableError, contents, fetch
from tsjax.storage.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS = {
    digit: place for place, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}


def write_corpus(path: Path, rows: int) -> None:
    """Write ``rows`` texts as JSONL.gz, each with an id, in a fixed order that mixes the sources.

    Raises:
        UnavailableError: a package is not available here, or the packages hold fewer texts.
    """
    texts = list(dict.fromkeys(text for source in (_packages, _dictionaries, _fortunes) for text in source()))
    if len(texts) < rows:
        raise UnavailableError(f"these packages hold {len(texts):,} texts, not {rows:,}")
    random.Random(0).shuffle(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, gzip.open(partial, "wt", encoding="utf-8", compresslevel=6) as lines:
        for number, text in enumerate(texts[:rows]):
            lines.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")


def _packages() -> Iterator[str]:
    """Yield ``name: what it is`` for every package of Debian."""
    try:
        listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise UnavailableError("Debian's package lists need apt-cache, and apt-get update before it") from None
    name = ""
    for line in listed.splitlines():
        if line.startswith("Package: "):
            name = line.removeprefix("Package: ")
        elif line.startswith("Description: "):
            yield f"{name}: {line.removeprefix('Description: ')}"


def _dictionaries() -> Iterator[str]:
    """Yield the entries of dictionaries in dictd's format: a compressed text, and an index of entry positions."""
    for package, name in (("dict-foldoc", "foldoc"), ("dict-wn", "wn")):
        files = _files(package, "dictd/*")
        data, places = gzip.decompress(files[f"{name}.dict.dz"]), set()
        for line in files[f"{name}.index"].decode("utf-8").splitlines():
            headword, start, length = line.split("\t")[:3]
            if not headword.startswith("00-database"):
                places.add((_number(start), _number(length)))
        for first, count in sorted(places):
            yield " ".join(data[first : first + count].decode("utf-8", "replace").split())


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _fortunes() -> Iterator[str]:
    """Yield the texts of ``fortune``, one after the other."""
    for name, content in sorted(_files("fortunes", "games/fortunes/*").items()):
        if "." not in name:  # the other files are indices
            for text in content.decode("utf-8", "replace").split("\n%\n"):
                if words := " ".join(text.split()):
                    yield words


def _files(package: str, pattern: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as downloads:
        return contents(fetch(package, Path(downloads)), pattern)
