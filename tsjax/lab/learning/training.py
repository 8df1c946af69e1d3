"""The run: step after step until the validation pairs get no better, saved on the way so that a kill loses little.

Everything that a step does follows from the recipe, the data and the state before it, so a run that was stopped and
goes on from its last saved state ends with the same bits.
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


# What the model's similarities are multiplied by in the loss, where the recipe does not say.
_SCALES = {"cosine": 20.0, "dot": 1.0}

# Pairs that validate together: their similarities are a matrix, of 64 MB for as many texts without hard negatives.
_VALIDATION_BLOCK = 4096

_STATIC = ("scale", "dimensions", "cosine")
_loss = jit(contrastive, static_argnames=_STATIC)
_loss_and_gradient = jit(jax.value_and_grad(contrastive, argnums=(0, 1)), static_argnames=_STATIC)


@dataclass(frozen=True)
class Learning:
    """What a run gave.

    Attributes:
        temperature: the best that was seen, by the validation pairs.
        weights: the encoder's weights of the same moment, as `tsjax.model.forward.apply` takes them; None where they
            did not learn.
        steps: how many there were, until validation ended them.
        best_step: after which the best was seen; 0 where nothing was better than the beginning.
        curve: for each look: ``step``, ``loss`` (mean of the steps since the last, None at the beginning),
            ``validation_loss`` (None where nothing validates).
        refitted: whether temperature and weights are those that `refit` gave.
    """

    temperature: Temperature
    weights: Any
    steps: int
    best_step: int
    curve: tuple[dict[str, float | None], ...] = field(repr=False)
    refitted: bool = False


class _Corpus(NamedTuple):
    """A corpus, its texts as tokens."""

    pairs: Pairs
    queries: Texts
    documents: Texts
    hard: Texts
    hard_starts: NDArray[np.intp]

    def of(self, chosen: Sequence[int] | NDArray[np.intp]) -> tuple[Texts, Texts]:
        """Queries and documents of some pairs, the hard negatives last."""
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
    """Learn temperatures, and by choice weights, that bring queries near to their texts.

    The loss is `tsjax.lab.learning.loss.contrastive` plus the recipe's penalty; the validation loss has no penalty.
    What was best on the validation pairs is given, also where that is the beginning.

    Args:
        embedder: the model: its weights, prompts, similarity (cosine or dot) and devices, and the dtype to compute in.
            Its temperature is 1, where learning begins. It stays as it is.
        training: what is learned from; each step takes one corpus.
        validation: what decides when to stop; several corpora count alike. With none, every step of the recipe is
            taken, and the last is kept.
        recipe: what learns, and how; None for the temperatures of all heads.
        stop_after: take so many of the recipe's steps at most; each is what it is among all of them.
        directory: where states are saved, and an earlier run of the same recipe, model and pairs is continued from;
            None saves none.
        report: told of each look at the validation pairs, the first before any step.

    Raises:
        InputError: pairs, or a recipe, that cannot be used with this model; or a directory with another run's states.
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
    """Learn anew from all pairs, those that validated included, for as many steps as validation found best.

    The steps are the recipe's first ones, with the learning rates that those had. Where the beginning was best, nothing
    is to be learned, and ``found`` is given.

    Args:
        embedder: as `learn` had it.
        training: as `learn` had it.
        validation: as `learn` had it; as many corpora, in the same order.
        recipe: as `learn` had it.
        found: what `learn` gave.
        directory: another than that of `learn`, for these states.
        report: told of each look; there is no validation loss.

    Raises:
        InputError: nothing has validated; otherwise as `learn`.
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
    """What does not change during a run."""

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
            # Sums over other devices, or by other programs, have other last bits.
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
        """The loss on the validation pairs without the penalty; the mean of the corpora.

        A query's negatives are the texts of its block: of all pairs, unless they are very many.
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
    """With texts that are nobody's negatives, up to a multiple of the queries.

    Queries have different numbers of hard negatives; the loss would be compiled for almost every batch anew.
    """
    more = -len(documents) % len(queries)
    return queries, np.pad(documents, ((0, more), (0, 0))), np.pad(excluded, ((0, 0), (0, more)), constant_values=True)


def _tokens(embedder: Embedder, length: int, recipe: Recipe, pairs: Pairs) -> _Corpus:
    """The corpus with its texts as tokens, each behind the prompt that `Embedder` puts before it."""
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
    """What tells two sets of pairs apart."""
    return [pairs.name, len(pairs), json_sha256([pairs.queries, pairs.documents, pairs.negatives])]
