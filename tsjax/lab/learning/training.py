"""Learning run: steps until the validation pairs stop improving, with saved states so that a kill loses little.

A step is determined by the recipe, the data and the previous state. A run that was stopped and continues from its last
saved state therefore ends with the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from tsjax._version import __version__
from tsjax.checkpoints.format import read_network_weights
from tsjax.engine.jax_modes import usual_modes
from tsjax.errors import NO_TOKENS, InputError
from tsjax.lab.learning import parameters
from tsjax.lab.learning.gradients import Network, Texts
from tsjax.lab.learning.loss import contrastive
from tsjax.lab.learning.optimizer import optimizer_of, update
from tsjax.lab.learning.pairs import Pairs, Step, schedule
from tsjax.lab.learning.parameters import Learned
from tsjax.lab.learning.recipe import Recipe
from tsjax.lab.learning.state import Progress, States
from tsjax.model.compiling import jit
from tsjax.model.forward import weight_shapes
from tsjax.model.params import unflatten
from tsjax.storage.digests import json_sha256
from tsjax.temperature import Temperature
from tsjax.text.tokenizer import without_tokens
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.encoders.embedder import Embedder


# Default factors of the model's similarities in the loss, if the recipe gives none.
_SCALES = {"cosine": 20.0, "dot": 1.0}

# Pairs that validate together. Their similarity matrix takes 64 MB for 4,096 texts without hard negatives.
_VALIDATION_BLOCK = 4096

_STATIC = ("scale", "dimensions", "cosine")
_loss = jit(contrastive, static_argnames=_STATIC)
_loss_and_gradient = jit(jax.value_and_grad(contrastive, argnums=(0, 1)), static_argnames=_STATIC)


@dataclass(frozen=True)
class Learning:
    """Result of a run.

    Attributes:
        temperature: the best temperature by the validation pairs.
        weights: the encoder's weights after the same step, as for `tsjax.model.forward.apply`; None if they were not
            learned.
        steps: the number of steps until validation ended the run.
        best_step: the step after which the best parameters were found; 0 if no step improved on the initial ones.
        curve: for each evaluation: ``step``, ``loss`` (mean of the steps since the last one, None before the first
            step), ``validation_loss`` (None without validation pairs).
        refitted: whether temperature and weights come from `refit`.
    """

    temperature: Temperature
    weights: Any
    steps: int
    best_step: int
    curve: tuple[dict[str, float | None], ...] = field(repr=False)
    refitted: bool = False


class _Corpus(NamedTuple):
    """Corpus with its texts as tokens."""

    pairs: Pairs
    queries: Texts
    documents: Texts
    hard: Texts
    hard_starts: NDArray[np.intp]

    def of(self, chosen: Sequence[int] | NDArray[np.intp]) -> tuple[Texts, Texts]:
        """Return the queries and documents of some pairs, with the hard negatives last."""
        hard = [i for pair in chosen for i in range(self.hard_starts[pair], self.hard_starts[pair + 1])]
        own, others = self.documents.of(chosen), self.hard.of(np.array(hard, np.intp))
        joined = own.tokenized._replace(
            ids=[*own.tokenized.ids, *others.tokenized.ids],
            lengths=np.concatenate([own.tokenized.lengths, others.tokenized.lengths]),
            truncated=np.concatenate([own.tokenized.truncated, others.tokenized.truncated]),
        )
        return self.queries.of(chosen), own._replace(tokenized=joined)


@usual_modes()
def learn(
    embedder: Embedder,
    training: Sequence[Pairs],
    validation: Sequence[Pairs],
    recipe: Recipe | None = None,
    *,
    stop_after: int | None = None,
    directory: Path | None = None,
    report: Callable[[dict[str, float | None]], object] = lambda look: None,
) -> Learning:
    """Learn temperatures, and optionally weights, that bring queries near to their texts.

    The loss is `tsjax.lab.learning.loss.contrastive` plus the recipe's penalty; the validation loss has no penalty. The
    parameters that were best on the validation pairs are returned, even if they are the initial ones.

    Args:
        embedder: the model: its weights, prompts, similarity (cosine or dot) and devices, and the dtype to compute in.
            Its temperature must be 1, where learning begins. It is not changed.
        training: the pairs to learn from; each step takes one corpus.
        validation: the pairs that decide when to stop; several corpora have equal weight. Without any, every step of
            the recipe is taken, and the last is kept.
        recipe: the choices of the run; None for the temperatures of all heads.
        stop_after: the maximum number of the recipe's steps to take; each step is the same as in the full run.
        directory: the directory of saved states, from which an earlier run of the same recipe, model and pairs is
            continued; None saves none.
        report: called with each evaluation on the validation pairs, the first before any step.

    Raises:
        InputError: the pairs or the recipe cannot be used with this model, or the directory has another run's states.
    """
    return _Run(embedder, training, validation, recipe or Recipe(), stop_after).go(directory, report)


@usual_modes()
def refit(
    embedder: Embedder,
    training: Sequence[Pairs],
    validation: Sequence[Pairs],
    recipe: Recipe,
    found: Learning,
    *,
    directory: Path | None = None,
    report: Callable[[dict[str, float | None]], object] = lambda look: None,
) -> Learning:
    """Learn again from all pairs, the validation pairs included, for the number of steps that validation found best.

    The steps are the recipe's first ones, with their learning rates. If the initial parameters were best, there is
    nothing to learn, and ``found`` is returned.

    Args:
        embedder: the argument of `learn`.
        training: the argument of `learn`.
        validation: the argument of `learn`; it has the same number of corpora as ``training``, in the same order.
        recipe: the argument of `learn`.
        found: the result of `learn`.
        directory: a directory for these states, other than that of `learn`.
        report: called with each evaluation; there is no validation loss.

    Raises:
        InputError: there were no validation pairs; otherwise see `learn`.
    """
    if len(validation) != len(training):
        raise InputError("a refit needs the pairs that validated, of each corpus: they said how many steps are best")
    if not found.best_step:
        return found
    everything = [one + other for one, other in zip(training, validation, strict=True)]
    again = learn(
        embedder,
        everything,
        (),
        recipe,
        stop_after=found.best_step,
        directory=directory,
        report=report,
    )
    return dataclasses.replace(found, temperature=again.temperature, weights=again.weights, refitted=True)


class _Run:
    """State that does not change during a run."""

    def __init__(
        self,
        embedder: Embedder,
        training: Sequence[Pairs],
        validation: Sequence[Pairs],
        recipe: Recipe,
        stop_after: int | None = None,
    ) -> None:
        if not training:
            raise InputError("learning needs pairs to learn from")
        if embedder.metadata.token_types:
            raise InputError("this model is told the segment of each token, which learning does not support")
        self._model = model = embedder.metadata.model
        if any(dimension >= model.embedding_dimension for dimension in recipe.matryoshka):
            raise InputError(f"matryoshka dimensions must be fewer than the model's {model.embedding_dimension}")
        self._recipe = recipe
        self._steps = recipe.steps if stop_after is None else min(recipe.steps, whole_number("stop_after", stop_after))
        header = embedder.header
        weights = unflatten(read_network_weights(header, weight_shapes(model)))
        longest = model.encoder.max_length
        length = (
            embedder.max_seq_length
            if recipe.train_length is None
            else whole_number("train_length", recipe.train_length)
        )
        if length > (longest or length):
            raise InputError(
                f"train_length {length} is more than the {longest} tokens that this model's table of positions has "
                "room for"
            )
        if embedder.temperature != Temperature():
            raise InputError(f"learning begins at τ = 1; the model has τ = {embedder.temperature}: load it with 1")
        if embedder.similarity_fn_name not in _SCALES:
            raise InputError(
                f"the model compares by {embedder.similarity_fn_name}; the loss has {' and '.join(_SCALES)} only"
            )
        self._loss_options = {
            "scale": _SCALES[embedder.similarity_fn_name] if recipe.scale is None else recipe.scale,
            "dimensions": recipe.matryoshka,
            "cosine": embedder.similarity_fn_name == "cosine",
        }
        self._network = Network(
            model,
            None if recipe.weights else weights,
            recipe,
            embedder.metadata.pad_token_id,
            length,
            embedder.devices,
            embedder.dtype,
        )
        self._start = parameters.start(recipe, model.encoder, weights)
        self._optimizer = optimizer_of(recipe)
        tokens = functools.partial(_tokens, embedder, length, recipe)
        self._training = [tokens(pairs) for pairs in training]
        self._validation = [tokens(pairs) for pairs in validation]
        self._identity = {
            "model": embedder.encoding_fingerprint,
            "similarity": embedder.similarity_fn_name,
            # Sums over other devices, or by other programs, differ in the last bits.
            "devices": [str(embedder.devices[0].device_kind), len(embedder.devices)],
            "versions": {"tsjax": __version__, "jax": jax.__version__, "optax": optax.__version__},
            "recipe": recipe.to_json(),
            "steps": self._steps,
            "training": [_identity(pairs) for pairs in training],
            "validation": [_identity(pairs) for pairs in validation],
        }

    def go(self, directory: Path | None, report: Callable[[dict[str, float | None]], object]) -> Learning:
        recipe = self._recipe
        start = self._network.place(self._start)
        state = {"learned": start, "best": start, "optimizer": self._network.place(self._optimizer.init(start))}
        progress = Progress()
        with States.open(directory, self._identity) as states:
            if (found := states.restore(state)) is not None:
                state, progress = self._network.place(found[0]), found[1]
                for look in progress.curve:
                    report(look)
            else:
                progress = progress.look(0, None, self._validate(start))
                report(progress.curve[-1])
            batches = schedule([len(corpus.pairs) for corpus in self._training], recipe.batch_size, recipe.seed)
            losses = []
            for step, batch in zip(range(1, self._steps + 1), batches, strict=False):
                if step <= progress.step:
                    continue
                if progress.waited >= recipe.patience:
                    break
                state, loss = self._step(state, batch)
                losses.append(loss)
                if step % recipe.evaluate_every and step != self._steps:
                    continue
                progress = progress.look(step, float(np.mean(losses)), self._validate(state["learned"]))
                losses = []
                if progress.best_step == step:
                    state = {**state, "best": state["learned"]}
                states.save(step, state, progress)
                report(progress.curve[-1])
        best = state["best"]
        return Learning(
            parameters.temperature(best, recipe),
            jax.device_get(best["weights"]) if recipe.weights else None,
            progress.step,
            progress.best_step,
            progress.curve,
        )

    def _step(self, state: dict[str, Any], batch: Step) -> tuple[dict[str, Any], float]:
        learned = state["learned"]
        corpus = self._training[batch.corpus]
        queries, documents = corpus.of(batch.chosen)
        excluded = corpus.pairs.excluded(batch.chosen)
        vectors = (self._network.embed(learned, queries), self._network.embed(learned, documents))
        loss, cotangents = _loss_and_gradient(*_filled(*vectors, excluded), **self._loss_options)
        pulled = [
            self._network.pull(learned, texts, np.asarray(cotangent)[: len(texts.tokenized.ids)])
            for texts, cotangent in zip((queries, documents), cotangents, strict=True)
        ]
        gradients = [gradient for gradient in pulled if gradient is not None]
        learned, optimizer, penalty = update(
            self._optimizer, self._recipe.penalty, learned, state["optimizer"], gradients
        )
        if not np.isfinite(total := float(loss + penalty)):
            raise InputError(
                f"the loss became {total}: in another directory, choose a smaller learning rate, or compute in float32"
            )
        return {**state, "learned": learned, "optimizer": optimizer}, total

    def _loss_of(self, learned: Learned, corpus: _Corpus, chosen: NDArray[np.intp]) -> float:
        queries, documents = (self._network.embed(learned, texts) for texts in corpus.of(chosen))
        return float(_loss(*_filled(queries, documents, corpus.pairs.excluded(chosen)), **self._loss_options))

    def _validate(self, learned: Learned) -> float | None:
        """Return the loss on the validation pairs without the penalty, as the mean of the corpora.

        A query's negatives are the texts of its block, which has all pairs unless there are very many.
        """
        if not self._validation:
            return None
        losses = []
        for corpus in self._validation:
            size = len(corpus.pairs)
            blocks = np.array_split(np.arange(size), math.ceil(size / _VALIDATION_BLOCK))
            losses.append(sum(len(block) * self._loss_of(learned, corpus, block) for block in blocks) / size)
        if not np.isfinite(mean := float(np.mean(losses))):
            raise InputError(f"the validation loss is {mean}: choose a smaller learning rate, or compute in float32")
        return mean


def _filled(
    queries: NDArray[np.float32], documents: NDArray[np.float32], excluded: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Pad the documents to a multiple of the queries with texts that are excluded as negatives of every query.

    Queries have different numbers of hard negatives, so the loss would otherwise be compiled again for almost every
    batch.
    """
    more = -len(documents) % len(queries)
    return queries, np.pad(documents, ((0, more), (0, 0))), np.pad(excluded, ((0, 0), (0, more)), constant_values=True)


def _tokens(embedder: Embedder, length: int, recipe: Recipe, pairs: Pairs) -> _Corpus:
    """Return the corpus with its texts as tokens, each after the prompt that `Embedder` puts before it."""
    pipeline = embedder.pipeline
    tokenizer = pipeline.tokenizer.with_max_length(length)

    def texts(given: Sequence[str], prompt: str, *, tempered: bool) -> Texts:
        tokenized = tokenizer.encode(given, prompt)
        left_out = pipeline.prompt_length(prompt)
        if (empty := without_tokens(tokenized, left_out)).size:
            raise InputError(f"corpus {pairs.name}: the text {given[empty[0]]!r:.60} {NO_TOKENS}; leave it out")
        return Texts(tokenized, left_out, tempered)

    query, document = embedder.prompt_for("query"), embedder.prompt_for("document")
    tempered = recipe.form != "none"
    documents_tempered = tempered and recipe.side != "queries"
    counts = [len(hard) for hard in pairs.negatives]
    return _Corpus(
        pairs,
        texts(pairs.queries, query, tempered=tempered and recipe.side != "documents"),
        texts(pairs.documents, document, tempered=documents_tempered),
        texts([*itertools.chain.from_iterable(pairs.negatives)], document, tempered=documents_tempered),
        np.concatenate([[0], np.cumsum(counts, dtype=np.intp)]),
    )


def _identity(pairs: Pairs) -> list[Any]:
    """Return a value that distinguishes sets of pairs."""
    return [pairs.name, len(pairs), json_sha256([pairs.queries, pairs.documents, pairs.negatives])]
