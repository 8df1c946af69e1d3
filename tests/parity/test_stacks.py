"""Modules of sentence-transformers around every family: `encode` against theirs, on what they saved."""

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_json
from tests.support.families import CASES
from tests.support.lazy import lazy
from tests.support.tiers import fast_where

SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")
Dense, Transformer = lazy("sentence_transformers.base.modules", "Dense", "Transformer")
Dropout, LayerNorm, Normalize, Pooling = lazy(
    "sentence_transformers.sentence_transformer.modules", "Dropout", "LayerNorm", "Normalize", "Pooling"
)
torch = lazy("torch")

# These are short with any prompt, so that each family compiles one shape.
TEXTS = ["the cat", "", "what he had to be", "was. was. was"]
PROMPTS = {"query": "it was the ", "topic": "of: "}
POOLINGS = ("mean", "cls", "lasttoken")
# They have names, as in published checkpoints: sentence-transformers counts a prompt's tokens by the names.
TOKENS = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}


def stack(name, directory):
    """Return three poolings side by side, and one of each head, some of which differ between families."""
    bias, include_prompt = name not in ("T5", "T5 v1.1", "mT5"), name in ("RoBERTa", "T5", "EmbeddingGemma")
    heads = [
        Dense(108, 41, bias=bias, activation_function=None),
        LayerNorm(41),
        Dropout(),
        Dense(41, 41, use_residual=True),
    ]
    if name.endswith("BERT"):
        heads.append(Normalize())
    for head in heads:
        for weight in head.parameters():
            weight.data += 0.1 * torch.randn_like(weight)  # scales that are not one, biases that are not zero
    return [Transformer(directory), Pooling(36, POOLINGS, include_prompt=include_prompt), *heads]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", fast_where({"BERT", "ModernBERT"}.__contains__, CASES))
def test_every_family_in_a_stack(tmp_path, name):
    (tmp_path / "encoder").mkdir()
    CASES[name].save(tmp_path / "encoder")
    write_json(tmp_path / "encoder" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS})
    modules = stack(name, str(tmp_path / "encoder"))
    saved = SentenceTransformer(modules=modules, prompts=PROMPTS, default_prompt_name="topic", device="cpu")
    saved.save(str(tmp_path / "saved"))
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    ours = tsjax.load(tmp_path / "saved")
    assert ours.prompts == theirs.prompts
    for options in (
        {},
        {"prompt": "", "task": "whatever"},
        {"prompt_name": "query"},
        {"prompt": "all ", "truncate_dim": 7, "normalize_embeddings": True},
    ):
        expected = theirs.encode(TEXTS, **options)
        vectors = ours.encode(TEXTS, **options)
        np.testing.assert_allclose(unit(vectors), unit(expected), rtol=0, atol=1e-6, err_msg=str(options))
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(vectors / scale, expected / scale, rtol=0, atol=2e-6, err_msg=str(options))
        if "prompt" not in options:
            assert np.abs(vectors - theirs.encode(TEXTS, prompt="")).max() > 1e-3, "the prompt changes nothing here"
