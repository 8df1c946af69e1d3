"""Vectors of the originals in PyTorch on texts: the tests of real checkpoints compare with them."""

import numpy as np

from tests.support.lazy import lazy

load_original, tempered = lazy("conversion.originals", "load_original", "tempered")
AutoTokenizer = lazy("transformers", "AutoTokenizer")
torch = lazy("torch")


def mean_vectors(directory, texts, max_length, temperature=1.0, dtype=None, batch=16):
    """Return mean-pooled, normalised vectors, float64, as the model card of all-MiniLM-L6-v2 computes them."""
    dtype = dtype or torch.float32
    model, tokenizer = load_original(directory, dtype), AutoTokenizer.from_pretrained(directory)
    order = np.argsort([len(text) for text in texts])
    vectors = []
    for start in range(0, len(texts), batch):
        chosen = [texts[i] for i in order[start : start + batch]]
        inputs = tokenizer(chosen, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad(), tempered(temperature):
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        vectors.append(torch.nn.functional.normalize(mean, dim=-1).double().numpy())
    return np.concatenate(vectors)[np.argsort(order)]
