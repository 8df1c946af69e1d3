"""Pipeline from texts to token ids to vectors, which every text passes through."""

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
    """A tokenizer with a fixed maximum length, and the engine that computes vectors from its token ids.

    `Embedder.pipeline` returns one with the embedder's present ``max_seq_length``. It computes the vectors of
    `Embedder.encode` before ``truncate_dim`` and ``normalize_embeddings``, and also takes token ids:

    >>> pipeline = embedder.pipeline
    >>> tokenized = pipeline.tokenize(["a text", "another text"])
    >>> for computed in pipeline.compute([tokenized], embedder.temperature):
    ...     vectors[computed.indices] = computed.embeddings

    Attributes:
        engine: the parameters on the devices.
        tokenizer: the tokenizer, which truncates texts to ``max_length``.
    """

    def __init__(self, engine: Engine, tokenizer: TextTokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer

    @property
    def max_length(self) -> int:
        """Return the maximum length in tokens, special ones included; longer texts are truncated."""
        return self.tokenizer.max_length

    @property
    def block_characters(self) -> int:
        """Return the approximate number of characters of texts that should be tokenised and planned together."""
        return self.engine.block_characters

    def tokenize(self, texts: Sequence[str], prompt: str = "") -> Tokenized:
        """Return the token ids of texts, each after the prompt, special tokens included."""
        with TraceAnnotation("tsjax.tokenize"):
            return self.tokenizer.encode(texts, prompt)

    def prompt_length(self, prompt: str) -> int:
        """Return the number of leading tokens of a text after this prompt that pooling leaves out."""
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
        """Compute vectors from token ids; yield one batch after another, in no particular order.

        Args:
            blocks: token ids in blocks of texts, from `tokenize` or another source.
            temperature: τ.
            prompt: prompt with which the token ids begin.
            max_texts: maximum texts in a batch; the tokens of a batch are bounded in any case.
            with_tokens: whether to return token vectors too.
            progress: called with the number of texts of each finished batch.

        Raises:
            NoTokensError: a text has no tokens to pool.
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
        """Compute the vectors of texts; tokenise each block while the device works on the previous one.

        Args:
            blocks: texts, in blocks of about `block_characters` characters.
            temperature: see `compute`.
            prompt: text before each text.
            max_texts: see `compute`.
            with_tokens: see `compute`.
            progress: see `compute`.

        Raises:
            NoTokensError, InputError, LifecycleError: as for `compute`.
        """
        with contextlib.closing(prefetch_map(lambda block: self.tokenize(block, prompt), blocks)) as tokenized:
            yield from self.compute(
                tokenized, temperature, prompt=prompt, max_texts=max_texts, with_tokens=with_tokens, progress=progress
            )
