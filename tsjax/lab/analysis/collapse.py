"""Study of length collapse: from a model, texts and temperatures to tables by length, layer and head.

Vectors are measured for every text, and attention inside the network for a few texts of each bucket. The measures are
in `tsjax.lab.analysis.measures` and `tsjax.lab.analysis.probe`, the choice of texts in `tsjax.lab.analysis.corpora`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsjax.errors import InputError
from tsjax.lab.analysis.corpora import CORPUS_TITLES, LEAST_TEXTS, CorpusBucket, check_lengths, make_buckets
from tsjax.lab.analysis.measures import (
    Estimate,
    distance_to_centroid,
    distance_to_centroid_change,
    effective_rank,
    mean_cosine_between,
    mean_pairwise_cosine,
    pairwise_cosine,
    pairwise_cosine_change,
    unit_rows,
)
from tsjax.lab.analysis.probe import Probe, probe_text
from tsjax.temperature import Temperature
from tsjax.text.tokenizer import Tokenized, as_text_list, check_texts
from tsjax.validation.numbers import whole_number
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from tsjax.encoders.embedder import Embedder
    from tsjax.temperature import TemperatureLike

    Progress = Callable[[str, int, int], object]


class VectorRow(NamedTuple):
    """Distribution of the vectors of one bucket at one τ. Errors are standard errors over texts."""

    corpus: str
    temperature: str
    length: int
    texts: int
    mean_tokens: float
    mean_cosine: float
    mean_cosine_error: float
    distance_to_centroid: float
    distance_to_centroid_error: float
    distance_to_all: float
    distance_to_all_error: float
    effective_rank: float


class PairRow(NamedTuple):
    """Mean cosine of two different texts, one from each of two buckets of a corpus, at one τ."""

    corpus: str
    temperature: str
    length: int
    other_length: int
    mean_cosine: float


class ChangeRow(NamedTuple):
    """Change from the shortest to the longest bucket of a corpus at one τ, with standard errors over texts.

    In ``cut`` and ``repeated`` both buckets hold the same texts, and the errors take this into account.
    """

    corpus: str
    temperature: str
    length: int
    other_length: int
    mean_cosine: float
    mean_cosine_error: float
    distance_to_centroid: float
    distance_to_centroid_error: float


class HeadRow(NamedTuple):
    """Measures of one head, counted from 0, in one bucket at one τ: means over texts."""

    corpus: str
    temperature: str
    length: int
    texts: int
    layer: int
    head: int
    filter_rate: float
    entropy: float


class StateRow(NamedTuple):
    """Measures of the hidden states at a depth: means over texts.

    Depth 0 is the input of the first layer, depth L the output of the last.
    """

    corpus: str
    temperature: str
    length: int
    texts: int
    depth: int
    high_share: float
    high_energy: float
    low_energy: float


@dataclass(frozen=True)
class Collapse:
    """Result of a study of length collapse.

    Attributes:
        about: the model, the temperatures, the lengths, the seed and so on, as JSON values.
        notes: sentences that say what was left out, and why.
        vectors: rows by corpus, τ and length.
        between: rows by corpus, τ and two lengths.
        changes: rows by corpus, τ and the two lengths farthest apart.
        heads: rows by corpus, τ, length, layer and head.
        states: rows by corpus, τ, length and depth.
    """

    about: dict[str, Any]
    notes: tuple[str, ...]
    vectors: tuple[VectorRow, ...]
    between: tuple[PairRow, ...]
    changes: tuple[ChangeRow, ...]
    heads: tuple[HeadRow, ...]
    states: tuple[StateRow, ...]


def study_collapse(
    embedder: Embedder,
    texts: Iterable[str],
    temperatures: Sequence[TemperatureLike] = (1.0, 0.9, 0.8),
    *,
    lengths: Sequence[int] | None = None,
    texts_per_bucket: int = 64,
    layer_texts: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> Collapse:
    """Measure length collapse in a model.

    Args:
        embedder: the model; texts are truncated to its ``max_seq_length`` and get its default prompt, if it has one.
        texts: the texts to measure, at least three.
        temperatures: the values of τ; each is a value that `tsjax.Temperature.of` accepts.
        lengths: upper ends of the buckets in tokens, special ones included; None for powers of two up to the longest.
        texts_per_bucket: the maximum number of texts in a bucket.
        layer_texts: the number of texts in a bucket whose attention is measured too; 0 for no measurement of attention.
        seed: the seed of the choice of texts.
        progress: called with the next measurement, the number of steps done, and the number of all steps.

    Raises:
        InputError: there are too few texts, or an argument cannot be used; the message names the problem.
    """
    grid = _grid(embedder, temperatures)
    whole_number("layer_texts", layer_texts, at_least=0)
    chosen = check_texts(as_text_list(texts))
    if len(chosen) < LEAST_TEXTS:
        there = {0: "no text", 1: "one text only"}.get(len(chosen), f"{len(chosen)} texts only")
        raise InputError(f"there is {there}; how texts lie to each other takes at least {LEAST_TEXTS}")
    if embedder.metadata.token_types:
        raise InputError("this model is told the segment of each token, which the study of collapse does not support")
    tokenizer = embedder.pipeline.tokenizer
    prompt = embedder.prompt_text()
    prompted = int(tokenizer.encode([prompt]).lengths[0]) - tokenizer.special_tokens
    lengths = check_lengths(lengths, embedder.max_seq_length, tokenizer.special_tokens, prompted)
    # Texts longer than the longest bucket are complete in no bucket.
    tokenizer = tokenizer.with_max_length(lengths[-1])
    buckets, notes = make_buckets(
        tokenizer, chosen, prompt=prompt, lengths=lengths, texts_per_bucket=texts_per_bucket, seed=seed
    )
    steps = len(grid) * (1 + (len(buckets) if layer_texts else 0))
    done = itertools.count()
    tell = progress or (lambda what, done, steps: None)
    study = _Study(embedder, prompt, buckets, layer_texts, lambda what: tell(what, next(done), steps))
    results = [study.at(temperature) for temperature in grid]
    about = {
        "model": embedder.metadata.source,
        "family": embedder.metadata.family,
        "encoding_fingerprint": embedder.encoding_fingerprint,
        "max_seq_length": embedder.max_seq_length,
        "dtype": embedder.dtype,
        "prompt": prompt,
        "temperatures": [{"name": str(temperature), **temperature.to_json()} for temperature in grid],
        "lengths": list(lengths),
        "texts": len(chosen),
        "texts_per_bucket": {bucket.corpus: len(bucket.ids) for bucket in buckets},
        "layer_texts": min(layer_texts, max(len(bucket.ids) for bucket in buckets)),
        "seed": seed,
    }
    merged = [tuple(itertools.chain.from_iterable(tables)) for tables in zip(*results, strict=True)]
    return Collapse(about, tuple(notes), *merged)


def _grid(embedder: Embedder, temperatures: Sequence[TemperatureLike]) -> list[Temperature]:
    """Return the distinct temperatures, checked to fit the model and to have distinct names."""
    if not isinstance(temperatures, Iterable):
        raise InputError(f"temperatures must be several, not {temperatures!r}")
    grid = list(dict.fromkeys(embedder.check_temperature(value) for value in temperatures))
    if not grid:
        raise InputError("there is no temperature to measure at; give one at least, such as 1")
    names = [str(temperature) for temperature in grid]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two temperatures are both printed as {double}, so the tables could not tell them apart")
    return grid


@dataclass(frozen=True)
class _Study:
    embedder: Embedder
    prompt: str
    buckets: list[CorpusBucket]
    layer_texts: int
    progress: Callable[[str], object]

    def at(
        self, temperature: Temperature
    ) -> tuple[list[VectorRow], list[PairRow], list[ChangeRow], list[HeadRow], list[StateRow]]:
        """Return the five tables at one τ."""
        name = str(temperature)
        self.progress(f"τ = {name}: vectors of {counted(sum(len(bucket.ids) for bucket in self.buckets), 'text')}")
        vectors = self._vectors(temperature)
        rows: list[VectorRow] = []
        pairs: list[PairRow] = []
        changes: list[ChangeRow] = []
        for corpus, group in itertools.groupby(
            zip(self.buckets, vectors, strict=True), key=lambda pair: pair[0].corpus
        ):
            members = list(group)
            everywhere = np.concatenate([unit_rows(own) for _, own in members]).mean(axis=0)
            rows += [_vector_row(bucket, own, everywhere, name) for bucket, own in members]
            for (bucket, own), (other, theirs) in itertools.combinations_with_replacement(members, 2):
                if bucket is other:
                    cosine = mean_pairwise_cosine(own)
                else:
                    cosine = mean_cosine_between(own, theirs, paired=corpus != "texts")
                pairs.append(PairRow(corpus, name, bucket.length, other.length, cosine))
            if len(members) > 1:
                changes.append(_change_row(members[0], members[-1], name))
        heads: list[HeadRow] = []
        states: list[StateRow] = []
        for bucket in self.buckets if self.layer_texts else []:
            probes = list(self._probes(bucket, temperature))
            heads += _head_rows(bucket, probes, name)
            states += _state_rows(bucket, probes, name)
        return rows, pairs, changes, heads, states

    def _vectors(self, temperature: Temperature) -> list[NDArray[np.float32]]:
        """Return the vectors of each bucket's texts."""
        embedder = self.embedder
        ids = [own for bucket in self.buckets for own in bucket.ids]
        count = np.fromiter(map(len, ids), np.int32, len(ids))
        vectors = np.empty((len(ids), embedder.metadata.model.embedding_dimension), np.float32)
        for computed in embedder.pipeline.compute(
            [Tokenized(ids, count, np.zeros(len(ids), np.bool_))], temperature, prompt=self.prompt
        ):
            vectors[computed.indices] = computed.embeddings
        vectors = vectors[:, : embedder.truncate_dim]
        return np.split(vectors, np.cumsum([len(bucket.ids) for bucket in self.buckets])[:-1])

    def _probes(self, bucket: CorpusBucket, temperature: Temperature) -> Iterator[Probe]:
        engine, encoder = self.embedder.pipeline.engine, self.embedder.metadata.model.encoder
        some = bucket.ids[: self.layer_texts]
        where = f"{CORPUS_TITLES[bucket.corpus]}, up to {counted(bucket.length, 'token')}"
        self.progress(f"τ = {temperature}: attention in {counted(len(some), 'text')} ({where})")
        per_head = temperature.per_head(encoder.num_layers, encoder.num_heads)
        for ids in some:
            own = per_head * temperature.factors(np.array([len(ids)]))
            pad = self.embedder.metadata.pad_token_id
            found = probe_text(engine.params, ids, bucket.length, own, pad, engine.config)
            if not all(np.isfinite(part).all() for part in found):
                raise InputError(
                    f"attention at τ = {temperature} is not finite: {self.embedder.dtype} cannot hold what the model "
                    "computes at this temperature"
                )
            yield found


def _vector_row(
    bucket: CorpusBucket, vectors: NDArray[np.float32], everywhere: NDArray[np.float64], name: str
) -> VectorRow:
    cosine, own = pairwise_cosine(vectors), distance_to_centroid(vectors)
    all_of_them = distance_to_centroid(vectors, everywhere)
    return VectorRow(
        bucket.corpus,
        name,
        bucket.length,
        len(bucket.ids),
        bucket.mean_tokens,
        *cosine,
        *own,
        *all_of_them,
        effective_rank(vectors),
    )


def _change_row(
    shortest: tuple[CorpusBucket, NDArray[np.float32]], longest: tuple[CorpusBucket, NDArray[np.float32]], name: str
) -> ChangeRow:
    (bucket, first), (other, last) = shortest, longest
    if bucket.corpus == "texts":  # each length has other texts
        cosine = _apart(pairwise_cosine(first), pairwise_cosine(last))
        distance = _apart(distance_to_centroid(first), distance_to_centroid(last))
    else:
        cosine, distance = pairwise_cosine_change(first, last), distance_to_centroid_change(first, last)
    return ChangeRow(bucket.corpus, name, bucket.length, other.length, *cosine, *distance)


def _apart(first: Estimate, last: Estimate) -> Estimate:
    """Return the change between two independent estimates."""
    return Estimate(last.value - first.value, math.hypot(first.error, last.error))


def _head_rows(bucket: CorpusBucket, probes: list[Probe], name: str) -> list[HeadRow]:
    rates = np.stack([found.filter_rate for found in probes]).mean(axis=0, dtype=np.float64)
    entropies = np.stack([found.entropy for found in probes]).mean(axis=0, dtype=np.float64)
    return [
        HeadRow(
            bucket.corpus,
            name,
            bucket.length,
            len(probes),
            layer,
            head,
            float(rates[layer, head]),
            float(entropies[layer, head]),
        )
        for layer, head in itertools.product(*map(range, rates.shape))
    ]


def _state_rows(bucket: CorpusBucket, probes: list[Probe], name: str) -> list[StateRow]:
    high = np.array([found.high for found in probes], np.float64)
    low = np.array([found.low for found in probes], np.float64)
    share = high / np.hypot(high, low)
    return [
        StateRow(
            bucket.corpus,
            name,
            bucket.length,
            len(probes),
            depth,
            float(share[:, depth].mean()),
            float((share[:, depth] ** 2).mean()),
            float(1 - (share[:, depth] ** 2).mean()),
        )
        for depth in range(share.shape[1])
    ]
