"""Three corpora of texts by length, which separate the effect of length from that of content.

Long texts have more content than short ones, so unmodified texts confound the two. The same texts cut to each length
have the same authors and subjects. Repeats of one passage have the same content at every length. Both begin anywhere in
a text: the beginnings of texts of one kind are alike (salutations, mastheads), and short cuts would be so too.

All texts are token ids, special ones included, so cuts are exact.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from tsjax.errors import InputError
from tsjax.lab.evaluation.copies import same_text
from tsjax.lab.evaluation.lengths import group_by_length
from tsjax.validation.numbers import whole_number
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tsjax.text.tokenizer import TextTokenizer

CorpusKind: TypeAlias = Literal["texts", "cut", "repeated"]
CORPUS_TITLES: dict[str, str] = {
    "texts": "texts as they are",
    "cut": "the same texts, cut",
    "repeated": "one passage, repeated",
}

# The shortest default bucket, and the number of default buckets, counted down from the longest text.
_SHORTEST = 16
_BUCKETS = 7

# Characters taken for each token: twice the usual number.
_CHARACTERS_A_TOKEN = 10

_SPACE = re.compile(r"\s+")

_Made = TypeVar("_Made")

# A bucket is left out if it has fewer than `_ENOUGH` texts and also fewer than half of the texts of the largest bucket.
# A jackknife needs three texts in any case.
_ENOUGH = 16
LEAST_TEXTS = 3


@dataclass(frozen=True)
class CorpusBucket:
    """Texts of similar length.

    Attributes:
        corpus: the corpus of the texts, one of three.
        length: the maximum number of tokens; in ``cut`` and ``repeated``, the number of tokens of each text.
        ids: the token ids of each text.
    """

    corpus: CorpusKind
    length: int
    ids: tuple[NDArray[np.int32], ...]

    @property
    def mean_tokens(self) -> float:
        """Return the mean number of tokens of a text."""
        return float(np.mean([len(ids) for ids in self.ids]))


def default_lengths(longest: int) -> tuple[int, ...]:
    """Return the powers of two from 16 up to the longest text, and its length; only the seven greatest of these."""
    lengths = []
    power = _SHORTEST
    while power < longest:
        lengths.append(power)
        power *= 2
    return (*lengths, longest)[-_BUCKETS:]


def check_lengths(lengths: Sequence[int] | None, longest: int, special: int, prompt: int = 0) -> tuple[int, ...]:
    """Check the lengths of the buckets and return them.

    None gives those `default_lengths` that are at least twice the tokens taken by special tokens and prompt.

    Args:
        lengths: the requested lengths.
        longest: the maximum number of tokens of a text.
        special: the number of special tokens of a text.
        prompt: the number of tokens of the prompt.

    Raises:
        InputError: a length exceeds the longest text or leaves no room for text, or the lengths are not ascending.
    """
    taken = special + prompt
    if lengths is None:
        lengths = [length for length in default_lengths(longest) if length >= 2 * taken] or [longest]
    for length in lengths:
        if not taken < whole_number("a length", length) <= longest:
            tokens = f"{special} special tokens" + (f", the {prompt} of the prompt" if prompt else "")
            raise InputError(
                f"a length is {length}; with this model's {tokens} and max_seq_length it can be "
                f"{taken + 1} to {longest}"
            )
    if not lengths or any(a >= b for a, b in itertools.pairwise(lengths)):
        raise InputError(f"lengths must rise, and there must be one at least: {list(lengths)}")
    return tuple(lengths)


@dataclass(frozen=True)
class _Drawn:
    """Texts in the order in which they were drawn, with the lengths and numbers that are wanted."""

    tokenizer: TextTokenizer
    prompt: str
    texts: list[str]
    ids: list[NDArray[np.int32]]
    found: NDArray[np.int64]  # tokens of each text; max_length + 1 where a text has more
    begin: NDArray[np.float64]  # where cuts and passages begin, as a fraction of the text
    lengths: tuple[int, ...]
    most: int


def make_buckets(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    prompt: str,
    lengths: Sequence[int],
    texts_per_bucket: int,
    seed: int,
) -> tuple[list[CorpusBucket], list[str]]:
    """Return the buckets of the three corpora, and sentences that say what was left out.

    Each corpus has the same number of texts in each of its buckets, because effective rank grows with that number. The
    seed decides the choice of texts.

    Args:
        tokenizer: the model's tokenizer; texts longer than its ``max_length`` take part only cut.
        texts: the texts to choose from.
        prompt: the prompt put before each text.
        lengths: upper ends of the buckets, ascending.
        texts_per_bucket: the maximum number of texts in a bucket, at least 3.
        seed: the seed of the choice.

    Raises:
        InputError: there are too few texts for any bucket, or the seed is invalid.
    """
    whole_number("seed", seed, at_least=0)
    if whole_number("texts_per_bucket", texts_per_bucket) < LEAST_TEXTS:
        raise InputError(f"texts_per_bucket must be at least {LEAST_TEXTS}, not {texts_per_bucket}")
    different: dict[str, str] = {}
    for text in texts:
        different.setdefault(same_text(text), text)
    once = list(different.values())
    rng = np.random.default_rng(seed)
    chosen = [once[place] for place in rng.permutation(len(once)).tolist()]
    tokenized = tokenizer.encode([prompt + text for text in chosen])
    found = np.where(tokenized.truncated, tokenizer.max_length + 1, tokenized.lengths).astype(np.int64)
    begin = rng.random(len(once))
    # Texts may differ in characters that the tokenizer ignores, such as accents, or after the point of truncation.
    first: dict[tuple[bytes, str], int] = {}
    for place, (ids, text) in enumerate(zip(tokenized.ids, chosen, strict=True)):
        first.setdefault((ids.tobytes(), text if tokenized.truncated[place] else ""), place)
    kept = list(first.values())
    drawn = _Drawn(
        tokenizer,
        prompt,
        [chosen[place] for place in kept],
        [tokenized.ids[place] for place in kept],
        found[kept],
        begin[kept],
        tuple(lengths),
        texts_per_bucket,
    )
    buckets: list[CorpusBucket] = []
    notes: list[str] = []
    if double := len(texts) - len(kept):
        notes.append(f"{counted(double, 'text')} of {len(texts):,} repeated an earlier one, and did not count.")
    for make in (_as_they_are, _cut, _repeated):
        made, said = make(drawn)
        buckets += made
        notes += said
    if not buckets:
        shortest, longest = (_tokens(count, tokenizer.max_length) for count in (found.min(), found.max()))
        raise InputError(
            f"no length has {LEAST_TEXTS} texts: of {counted(len(texts), 'text')}, {len(once):,} different, the "
            f"shortest has {shortest} and the longest {longest} tokens, and the lengths are "
            f"{', '.join(map(str, lengths))}"
        )
    return buckets, notes


def _as_they_are(drawn: _Drawn) -> tuple[list[CorpusBucket], list[str]]:
    """Return complete texts by length: longer than the bucket before, or than half of the first bucket."""
    lowest = drawn.lengths[0] // 2
    found = group_by_length(drawn.found, [highest + 1 for highest in (lowest, *drawn.lengths)])
    inside = {bucket.end - 1: bucket.items.tolist() for bucket in found}
    notes = []
    if short := int((drawn.found <= lowest).sum()):
        notes.append(f"{counted(short, 'text')} of at most {lowest} tokens: in no bucket.")
    if long := int((drawn.found > drawn.lengths[-1]).sum()):
        notes.append(f"{counted(long, 'text')} of more than {drawn.lengths[-1]} tokens: measured cut, but not whole.")
    enough = max(LEAST_TEXTS, min(_ENOUGH, max(map(len, inside.values())) // 2))
    kept = {length: places for length, places in inside.items() if len(places) >= enough}
    if not kept:
        return [], [*notes, "Too few texts fit whole, so texts as they are were not measured."]
    for length, places in inside.items():
        if places and length not in kept:
            notes.append(f"Up to {length} tokens: {counted(len(places), 'text')}, too few for a bucket.")
    count = min(drawn.most, *map(len, kept.values()))
    return [
        CorpusBucket("texts", length, tuple(drawn.ids[place] for place in places[:count]))
        for length, places in kept.items()
    ], notes


def _cut(drawn: _Drawn) -> tuple[list[CorpusBucket], list[str]]:
    """Return the same texts, from the same place on, cut to each length that enough of them have."""
    reach = {length: int((drawn.found >= length).sum()) for length in drawn.lengths}
    enough = max(LEAST_TEXTS, min(_ENOUGH, max(reach.values()) // 2))
    lengths = [length for length, count in reach.items() if count >= enough]
    if len(lengths) < 2:
        return [], ["Too few texts are long enough to be cut, so cut texts were not measured."]
    longest, shortest = lengths[-1], drawn.tokenizer.with_max_length(lengths[0])

    def by_shortest(rests: list[str]) -> Iterator[tuple[bytes, str]]:
        cut = shortest.encode([drawn.prompt + text for text in rests]).ids
        return ((ids.tobytes(), text) for ids, text in zip(cut, rests, strict=True))

    texts, doubles = _different(drawn, longest, by_shortest)
    if len(texts) < LEAST_TEXTS:
        return [], [f"Cut to {lengths[0]} tokens nearly all texts are the same, so cut texts were not measured."]
    notes = []
    if doubles:
        cut = f"{counted(doubles, 'text')} cut to {lengths[0]} tokens"
        notes.append(f"{cut} repeated an earlier one, and did not count.")
    if longest < drawn.lengths[-1]:
        notes.append(f"Cut texts go up to {longest} tokens, since too few texts have more.")
    return [CorpusBucket("cut", length, _cut_at(drawn, texts, length)) for length in lengths], notes


def _repeated(drawn: _Drawn) -> tuple[list[CorpusBucket], list[str]]:
    """Return one passage of each text, of about the shortest length, repeated up to each length."""
    shortest = drawn.lengths[0]
    first = drawn.tokenizer.with_max_length(shortest)

    def by_tokens(rests: list[str]) -> Iterator[tuple[bytes, tuple[str, int]]]:
        """Yield each passage and its number of tokens."""
        beginnings = [first.beginning(text) for text in rests]
        for text, ids in zip(beginnings, drawn.tokenizer.encode(beginnings).ids, strict=True):
            # A word may have no tokens, such as a zero-width space.
            if (count := len(ids) - drawn.tokenizer.special_tokens) > 0:
                yield ids.tobytes(), (text, count)

    passages, doubles = _different(drawn, shortest, by_tokens)
    if len(passages) < LEAST_TEXTS or len(drawn.lengths) < 2:
        return [], ["Too few texts have a passage to repeat, so repeated passages were not measured."]
    notes = []
    if doubles:
        notes.append(f"{counted(doubles, 'text')} gave a passage that an earlier one had given, and did not count.")
    buckets = []
    for length in drawn.lengths:
        # One copy more than necessary, because joined copies may have fewer tokens.
        texts = [" ".join([text] * (length // count + 2)) for text, count in passages]
        buckets.append(CorpusBucket("repeated", length, _cut_at(drawn, texts, length)))
    return buckets, notes


def _different(
    drawn: _Drawn, length: int, made: Callable[[list[str]], Iterable[tuple[bytes, _Made]]]
) -> tuple[list[_Made], int]:
    """Build items from the remainders of the texts, skipping duplicate keys; return them and the number skipped.

    Args:
        drawn: the texts.
        length: the number of tokens of a remainder.
        made: a function that returns keys and items for some remainders.
    """
    places = np.flatnonzero(drawn.found >= length).tolist()
    batches = (places[start : start + drawn.most] for start in range(0, len(places), drawn.most))
    kept: dict[bytes, _Made] = {}
    doubles = 0
    for key, one in itertools.chain.from_iterable(made(_rests(drawn, batch, length)) for batch in batches):
        doubles += key in kept
        kept.setdefault(key, one)
        if len(kept) == drawn.most:
            break
    return list(kept.values()), doubles


def _rests(drawn: _Drawn, places: Sequence[int], length: int) -> list[str]:
    """Return each text from the start of a word on, with ``length`` tokens.

    The word is the drawn one, or an earlier one if fewer tokens follow it.
    """
    cutting = drawn.tokenizer.with_max_length(length)
    # For a book the next pages are enough; the remaining tokens are not needed.
    pages = dict.fromkeys(places, _CHARACTERS_A_TOKEN * length)
    begin = {place: int(drawn.begin[place] * len(drawn.texts[place])) for place in places}
    rests: dict[int, str] = {}
    while left := [place for place in places if place not in rests]:
        some = [_from_a_word(drawn.texts[place], begin[place]) for place in left]
        parts = [text[: pages[place]] for place, text in zip(left, some, strict=True)]
        tokenized = cutting.encode([drawn.prompt + text for text in parts])
        for row, place in enumerate(left):
            if tokenized.truncated[row] or (parts[row] == some[row] and tokenized.lengths[row] == length):
                rests[place] = parts[row]
            elif parts[row] != some[row]:
                pages[place] *= 8
            elif not begin[place]:  # from the first character on, every one of these texts is long enough
                rests[place] = some[row]
            else:
                begin[place] //= 2
    return [rests[place] for place in places]


def _from_a_word(text: str, begin: int) -> str:
    """Return the text from the next word on; without a space, as in Japanese, from the character."""
    space = _SPACE.search(text, begin) if begin else None
    return text[begin:] if space is None else text[space.end() :]


def _cut_at(drawn: _Drawn, texts: list[str], length: int) -> tuple[NDArray[np.int32], ...]:
    return tuple(drawn.tokenizer.with_max_length(length).encode([drawn.prompt + text for text in texts]).ids)


def _tokens(found: int, most: int) -> str:
    return str(found) if found <= most else f"more than {most}"
