"""An embedder whose vectors are best at a known temperature, and tasks for it."""

import hashlib
import json

import numpy as np

from tsjax.encoders.similarity import similarity, similarity_pairwise
from tsjax.engine.statistics import Statistics
from tsjax.temperature import Temperature

TOPICS = 12


class FakeEmbedder:
    """An embedder whose vectors are least noisy at τ = ``best`` for documents.

    The first word of a text is its topic's number; the rest of the vector is noise.
    """

    max_seq_length = 6
    statistics = Statistics()

    def __init__(self, best=0.8, noise=1.5):
        self.best, self.noise = best, noise
        self.calls = []

    def _encode(self, side, texts, temperature):
        temperature = Temperature.of(temperature).for_task("query" if side == "query" else "document")
        self.calls.append((side, len(texts), temperature))
        strength = 0.2 if side == "query" else 0.3 + self.noise * abs(temperature.value - self.best)
        rows = []
        for text in texts:
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))
            noise = rng.standard_normal(TOPICS) * strength
            rows.append(np.eye(TOPICS)[int(text.split()[0]) % TOPICS] + noise)
        return np.asarray(rows, np.float32).reshape(len(texts), TOPICS)

    def encode(self, texts, *, temperature, show_progress_bar):
        return self._encode("text", texts, temperature)

    def encode_query(self, texts, *, temperature, show_progress_bar):
        return self._encode("query", texts, temperature)

    def encode_document(self, texts, *, temperature, show_progress_bar):
        return self._encode("document", texts, temperature)

    def similarity(self, a, b):
        return similarity(a, b, "cosine")

    def similarity_pairwise(self, a, b):
        return similarity_pairwise(a, b, "cosine")

    def count_tokens(self, texts, *, task=None):
        return np.array([len(text.split()) + 2 for text in texts], np.int32)


def texts(count, seed=0):
    """Return texts of all topics in turn, of 1 to 60 words."""
    rng = np.random.default_rng(seed)
    return tuple(f"{i % TOPICS} {seed} {i}" + " x" * int(rng.integers(0, 58)) for i in range(count))


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_retrieval(folder, documents, queries, qrels):
    """Write a folder in BEIR's layout; ``qrels`` are lines of query, document, grade."""
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir(exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
