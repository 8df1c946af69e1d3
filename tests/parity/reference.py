"""The originals in PyTorch, with a temperature: what every parity test compares with."""

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def original(directory, temperature=1.0, dtype=torch.float32):
    """The Hugging Face model, each attention's scaling divided by τ."""
    model = AutoModel.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling = module.scaling / temperature
    return model


def hidden_states(model, input_ids, lengths):
    """Hidden states of the last layer as float64, and the mask."""
    mask = torch.arange(input_ids.shape[1])[None, :] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        states = model(input_ids=torch.tensor(np.asarray(input_ids)), attention_mask=mask.long()).last_hidden_state
    return states.double().numpy(), mask.numpy()


def mean_vectors(directory, texts, max_length, temperature=1.0, dtype=torch.float32, batch=16):
    """Mean-pooled, normalised vectors, float64, as the model card of all-MiniLM-L6-v2 computes them."""
    model, tokenizer = original(directory, temperature, dtype), AutoTokenizer.from_pretrained(directory)
    order = np.argsort([len(text) for text in texts])
    vectors = []
    for start in range(0, len(texts), batch):
        chosen = [texts[i] for i in order[start : start + batch]]
        inputs = tokenizer(chosen, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        vectors.append(torch.nn.functional.normalize(mean, dim=-1).double().numpy())
    return np.concatenate(vectors)[np.argsort(order)]
