"""Benchmark inputs: texts of known token lengths, batches of random token ids, models of random weights.

All inputs follow from a seed, so that two engines, or two runs, get the same. `tsjax.bench.benchmark` measures.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.errors import InputError
from tsjax.text.tokenizer import Tokenized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Header
    from tsjax.text.tokenizer import TextTokenizer

# Texts of about this number of tokens, texts of 10 to 512 tokens ("mixed"), and batches of rows × tokens.
TEXT_WORKLOADS = ("10", "139", "304", "mixed")
SHAPE_WORKLOADS = ("32x32", "32x128", "16x256", "8x512", "1x16", "1x128")

# A text of "about" n tokens has n tokens, plus or minus this share.
_SPREAD = 0.2
_MIXED = (10, 512)

# Encoders by size, for measurements of speed only.
RANDOM_MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"hidden_size": 384, "num_layers": 6, "num_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072},
}

# Words for a vocabulary that has no complete words.
_PLAIN_WORDS = "the of and to in is was for on are with they at be this have from one had word but not what all".split()


def parse_shape(name: str) -> tuple[int, int] | None:
    """Return the rows and tokens of a workload such as 32x128; None for a workload of texts.

    Raises:
        InputError: the name is of neither kind.
    """
    if match := re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", name):
        return int(match[1]), int(match[2])
    if name != "mixed" and not re.fullmatch(r"[1-9]\d{0,5}", name):
        raise InputError(
            f"there is no workload {name!r}; one is a number of tokens (139), mixed, or rows x tokens (32x128)"
        )
    return None


def needed_length(name: str) -> int:
    """Return the minimum ``max_seq_length`` of a workload. Raises the errors of `parse_shape`."""
    shape = parse_shape(name)
    if shape is not None:
        return shape[1]
    return _MIXED[0] if name == "mixed" else int(name)


def draw_lengths(name: str, tokens: int, longest: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the lengths in tokens, special ones included, of the texts of a workload.

    Args:
        name: ``139`` for lengths uniform in 139 ± 20 %; ``mixed`` for log-uniform lengths from 10 to 512, since there
            are more short texts than long ones.
        tokens: minimum sum of the lengths; the excess is less than one text.
        longest: maximum length.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    mixed = name == "mixed"
    low, high = _MIXED if mixed else (round(int(name) * (1 - _SPREAD)), round(int(name) * (1 + _SPREAD)))
    low, high = max(1, min(low, longest)), max(1, min(high, longest))
    count = -(-tokens // low)
    if mixed:
        lengths = np.exp(rng.uniform(np.log(low), np.log(high + 1), count)).astype(np.int64).clip(low, high)
    else:
        lengths = rng.integers(low, high + 1, count)
    enough = int(np.searchsorted(np.cumsum(lengths), tokens)) + 1
    return lengths[:enough]


def make_texts(tokenizer: TextTokenizer, lengths: Sequence[int] | NDArray[np.integer], seed: int = 0) -> list[str]:
    """Return texts of random words with exactly these numbers of tokens, special ones included.

    The words are complete words of one token each. If the tokenizer has no such words, plain English words are joined
    up to the requested length, and a text may have a few tokens less.

    Args:
        tokenizer: its ``max_length`` is at least the maximum of the lengths.
        lengths: number of tokens of each text.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    special = int(tokenizer.encode([""]).lengths[0])
    words = single_token_words(tokenizer) or _PLAIN_WORDS
    drawn = [list(rng.choice(words, max(0, int(length) - special))) for length in lengths]
    texts = [" ".join(chosen) for chosen in drawn]
    tokenized = tokenizer.encode(texts)
    exact = (tokenized.lengths == np.maximum(lengths, special)) & ~tokenized.truncated
    return [
        text if fits else _longest_that_fits(tokenizer, chosen, int(length))
        for text, chosen, length, fits in zip(texts, drawn, lengths, exact, strict=True)
    ]


def single_token_words(tokenizer: TextTokenizer, most: int = 2000) -> list[str]:
    """Return up to ``most`` words that are one token anywhere in a text, ordered by their ids."""
    by_id = sorted(tokenizer.vocabulary.items(), key=lambda item: item[1])
    # A leading ▁ (SentencePiece) or Ġ (byte-level BPE) stands for a space.
    candidates = [token.lstrip("▁Ġ") for token, _ in by_id]
    candidates = list(dict.fromkeys(word for word in candidates if re.fullmatch("[a-z]{2,8}", word)))
    if len(candidates) > 4 * most:
        candidates = candidates[:: len(candidates) // (4 * most)]
    special = int(tokenizer.encode([""]).lengths[0])
    once = tokenizer.encode(candidates).lengths == special + 1
    twice = tokenizer.encode([f"{word} {word}" for word in candidates]).lengths == special + 2
    good = [word for word, single in zip(candidates, once & twice, strict=True) if single]
    return good[:most]


def _longest_that_fits(tokenizer: TextTokenizer, words: Sequence[str], length: int) -> str:
    """Return the longest prefix of the words that has at most ``length`` tokens, as a text."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        tokenized = tokenizer.encode([" ".join(words[:middle])])
        if tokenized.lengths[0] <= length and not tokenized.truncated[0]:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def random_batch(rows: int, tokens: int, vocab_size: int, seed: int = 0) -> Tokenized:
    """Return texts of random token ids, all of the same length, to measure the network without the tokenizer."""
    ids = np.random.default_rng(seed).integers(0, vocab_size, (rows, tokens), dtype=np.int32)
    return Tokenized(list(ids), np.full(rows, tokens, np.int32), np.zeros(rows, np.bool_))


def write_random_model(directory: Path, size: str, tokenizer_of: Header) -> Header:
    """Write a checkpoint of a BERT with random weights and positions for 512 tokens, pooled by the mean.

    Args:
        directory: the directory to make.
        size: one of `RANDOM_MODELS`.
        tokenizer_of: checkpoint whose tokenizer to use.
    """
    from tsjax.checkpoints.format import Metadata, read_tokenizer, save  # noqa: PLC0415  # who makes texts needs no JAX
    from tsjax.model.config import EncoderConfig, ModelConfig  # noqa: PLC0415
    from tsjax.model.forward import init_params  # noqa: PLC0415
    from tsjax.model.params import flatten  # noqa: PLC0415

    if size not in RANDOM_MODELS:
        raise InputError(f"there is no random model {size!r}; it can be {', '.join(RANDOM_MODELS)}")
    vocab_size = tokenizer_of.metadata.model.encoder.vocab_size
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "max_positions": 512, "type_vocab_size": 2}
    model = ModelConfig(encoder=EncoderConfig(**sizes, **RANDOM_MODELS[size]))
    metadata = Metadata(
        model=model,
        max_seq_length=512,
        pad_token_id=tokenizer_of.metadata.pad_token_id,
        source=f"random weights of the size of {size}",
    )
    weights = {name: np.asarray(array, np.float32) for name, array in flatten(model, init_params(model)).items()}
    return save(directory, metadata, weights, read_tokenizer(tokenizer_of))
