"""Texts to token ids to vectors: the one way that every text takes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from jax.profiler import TraceAnnotation

from tsjax.engine.prefetch import prefetch_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tsjax.engine.engine import Engine
    from tsjax.engine.executor import Computed
    from tsjax.temperature import Temperature
    from tsjax.text.tokenizer import TextTokenizer, Tokenized


class Pipeline:
    """A tokenizer with a fixed maximum length, and the engine that its token ids go to.

    `Embedder.pipeline` returns one with the embedder's present ``max_seq_length``. It computes what `Embedder.encode`
    computes before ``truncate_dim`` and ``normalize_embeddings``, and takes token ids too:

    >>> pipeline = embedder.pipeline
    >>> tokenized = pipeline.tokenize(["a text", "another text"])
    >>> for computed in pipeline.compute([tokenized], embedder.temperature):
    ...     vectors[computed.indices] = computed.embeddings

    Attributes:
        engine: the parameters on the devices.
        tokenizer: the tokenizer, which cuts texts at ``max_length``.
    """

    def __init__(self, engine: Engine, tokenizer: TextTokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer

    @property
    def max_length(self) -> int:
        """Tokens at which texts are cut, special ones included."""
        return self.tokenizer.max_length

    @property
    def block_characters(self) -> int:
        """Characters of texts that should be tokenised and planned together, about."""
        return self.engine.block_characters

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> Tokenized:
        """Return the token ids of texts, each after the prompt, special tokens included."""
        with TraceAnnotation("tsjax.tokenize"):
            return self.tokenizer.encode(texts, prompt)

    def prompt_length(self, prompt: str) -> int:
        """Return the leading tokens of a text after this prompt that pooling leaves out."""
        if not prompt or self.engine.config.pooling.include_prompt:
            return 0
        return self.tokenizer.prompt_length(prompt)

    def compute(
        self,
        blocks: Iterable[Tokenized],
        temperature: Temperature,
        *,
        prompt: str = "",
        max_texts: int | None = None,
        with_tokens: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Computed]:
        """Compute the vectors of token ids; yields batch after batch, in no particular order.

        Args:
            blocks: token ids, some texts at a time, of `tokenize` or of another source.
            temperature: τ.
            prompt: the prompt that the token ids begin with.
            max_texts: the most texts in a batch, which is bounded by tokens anyway.
            with_tokens: whether to return token vectors too.
            progress: told the number of texts in each batch that is done.

        Raises:
            NoTokensError: a text leaves nothing to pool.
            InputError: the vectors are not finite.
            LifecycleError: the engine was closed, or JAX cannot run in this process.
        """
        return self.engine.compute(
            blocks,
            temperature,
            max_length=self.max_length,
            prompt_length=self.prompt_length(prompt),
            max_texts=max_texts,
            with_tokens=with_tokens,
            progress=progress,
        )

    def embed(
        self,
        blocks: Iterable[Sequence[str]],
        temperature: Temperature,
        *,
        prompt: str = "",
        max_texts: int | None = None,
        with_tokens: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Computed]:
        """Compute the vectors of texts; each block is tokenised while the device works on the one before.

        Args:
            blocks: texts, about `block_characters` at a time.
            temperature: see `compute` for this and the following.
            prompt: text before each text.
            max_texts: likewise.
            with_tokens: likewise.
            progress: likewise.

        Raises:
            NoTokensError: as for `compute`, likewise the others.
        """
        with contextlib.closing(prefetch_map(lambda block: self.tokenize(block, prompt), blocks)) as tokenized:
            yield from self.compute(
                tokenized, temperature, prompt=prompt, max_texts=max_texts, with_tokens=with_tokens, progress=progress
            )
