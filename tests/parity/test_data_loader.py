"""A model within PyTorch's DataLoader, whose workers get it by a pickle."""

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tests.support.lazy import lazy

torch = lazy("torch")


class Vectors:
    def __init__(self, embedder, texts):
        self.embedder, self.texts = embedder, texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, place):
        return self.embedder.encode(self.texts[place])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_embed(tmp_path, method):
    texts = ["the cat", "of it", "what he had"]
    embedder = tsjax.load(write_sentence_transformers(tmp_path / "model"), temperature=0.8)
    loader = torch.utils.data.DataLoader(
        Vectors(embedder, texts), batch_size=3, num_workers=1, multiprocessing_context=method
    )
    (batch,) = loader
    np.testing.assert_allclose(batch.numpy(), embedder.encode(texts), atol=1e-5)
