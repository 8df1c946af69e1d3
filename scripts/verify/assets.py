"""Unpacker of the downloads of `make verify`: all-mpnet-base-v2, in five parts of a zip archive, and Lee50's texts.

Usage: python -m scripts.verify.assets WHEELS BUILD
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

# The first digits of the SHA-256 of model.safetensors as published.
MPNET_SHA256 = "78c0197b"


def main(wheels: Path, build: Path) -> None:
    """Write BUILD/mpnet and BUILD/lee."""
    parts: dict[str, bytes] = {}
    for wheel in sorted(wheels.glob("all_mpnet*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            parts |= {Path(name).name: archive.read(name) for name in archive.namelist() if ".zip." in name}
    with zipfile.ZipFile(io.BytesIO(b"".join(parts[name] for name in sorted(parts)))) as archive:
        for name in archive.namelist():
            target = build / "mpnet" / Path(*Path(name).parts[1:])
            if not name.endswith("/"):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    found = hashlib.sha256((build / "mpnet" / "model.safetensors").read_bytes()).hexdigest()
    if not found.startswith(MPNET_SHA256):
        sys.exit(f"model.safetensors of all-mpnet-base-v2 has SHA-256 {found}, not the published one")
    with zipfile.ZipFile(next(wheels.glob("gensim*.whl"))) as archive:
        for name in ("lee.cor", "similarities0-1.txt"):
            (build / "lee" / name).write_bytes(archive.read(f"gensim/test/test_data/{name}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
