"""Demonstration of embeddings of a few well-known texts: `make demo` runs this.

Usage: python scripts/demo.py [TEXTS.jsonl]
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

import tsjax
from tsjax.jobs.input.texts import read_texts

TEMPERATURES = (0.9, 0.7, 0.5)
HERE = Path(__file__).parent


def main(file: Path) -> None:
    """Embed the texts of a JSONL file (``title`` and ``text``) at several temperatures and print three tables."""
    titles, texts = list(read_texts(str(file), "title")), list(read_texts(str(file)))
    warnings.simplefilter("ignore", tsjax.TruncationWarning)  # the table shows which texts were cut

    embedder = tsjax.load(kind="embedder")
    print(embedder)
    published = embedder.encode(texts, normalize_embeddings=True)
    moved = {tau: embedder.encode(texts, normalize_embeddings=True, temperature=tau) for tau in TEMPERATURES}
    details = embedder.encode(texts, output_value=None)
    tokens = np.array([len(item["input_ids"]) for item in details])

    print("\nEach text, its nearest neighbour, and how far its vector turns when the attention is sharpened")
    print(f"{'':32}{'tokens':>7}   {'nearest':32}{'cosine':>7}   " + "".join(f"{f'τ = {t}':>9}" for t in TEMPERATURES))
    similarity = embedder.similarity(published, published) - 2 * np.eye(len(texts), dtype=np.float32)
    for i in np.argsort(tokens, kind="stable"):
        nearest = int(similarity[i].argmax())
        angles = [np.degrees(np.arccos(np.clip(published[i] @ moved[t][i], -1, 1))) for t in TEMPERATURES]
        cut = "+" if tokens[i] == embedder.max_seq_length else " "
        print(
            f"{titles[i]:32}{tokens[i]:7}{cut}  {titles[nearest]:32}{similarity[i, nearest]:7.2f}   "
            + "".join(f"{angle:8.1f}°" for angle in angles)
        )
    print(f"(+ cut at {embedder.max_seq_length} tokens)")

    print("\nMean cosine between texts of similar length. Long texts lie closer together than short ones: that gap is")
    print("length collapse. A temperature moves both; what it does to a task, only the task's own data can tell.")
    thirds = np.array_split(np.argsort(tokens, kind="stable"), 3)
    print(f"{'tokens':16}{'τ = 1':>9}" + "".join(f"{f'τ = {t}':>9}" for t in TEMPERATURES))
    means = np.array([[_mean_cosine(v[part]) for v in (published, *moved.values())] for part in thirds])
    for part, row in zip(thirds, means, strict=True):
        print(f"{f'{tokens[part].min()} to {tokens[part].max()}':16}" + "".join(f"{mean:9.3f}" for mean in row))
    print(f"{'gap':16}" + "".join(f"{gap:9.3f}" for gap in means[-1] - means[0]))

    done = embedder.statistics
    print(
        f"\n{done.texts} embeddings of {done.tokens:,} tokens; {done.compilations} programs compiled, one for each "
        "shape of batch and output, none for a temperature"
    )


def _mean_cosine(unit: np.ndarray) -> float:
    """Return the mean cosine between different rows."""
    cosines = unit @ unit.T
    return float((cosines.sum() - np.trace(cosines)) / (len(unit) * (len(unit) - 1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "demo.jsonl")
