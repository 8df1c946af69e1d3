"""Description of a job: the model, the options and the inputs that decide its output, as facts that can be compared."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, TypedDict, cast, get_args

from tsjax._version import __version__
from tsjax.errors import InputError
from tsjax.jobs.defaults import BYTES_PER_SHARD, CALIBRATION_ROWS, ROWS_PER_SHARD
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.output.precision import CALIBRATED, StoredPrecision, check_stored_precision, stored_width
from tsjax.storage.digests import json_sha256
from tsjax.storage.json_values import decode, differences
from tsjax.validation.numbers import check_whole_fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tsjax.encoders.embedder import Embedder
    from tsjax.encoders.router import RoutedEmbedder
    from tsjax.jobs.plan import Plan
    from tsjax.temperature import Temperature

FileFormat: TypeAlias = Literal["parquet", "npy"]
LongTexts: TypeAlias = Literal["cut", "chunk", "late", "reject"]

_LATE_CHUNK_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a job that a user chooses, besides the model and the inputs.

    Attributes:
        columns: the columns to read.
        rows_per_shard: maximum number of input rows in a shard, rejected rows included.
        bytes_per_shard: bytes of text in a shard, as UTF-8. A shard ends with the row that reaches this size. With
            ``rows_per_shard``, it limits the work that a killed job has to repeat.
        file_format: ``parquet``, or ``npy`` for an array to map into memory, with a file of ids next to it.
        precision: the numbers that are stored.
        normalize: divide each vector by its norm.
        long_texts: treatment of a text of more than ``max_seq_length`` tokens. ``cut``: its end is dropped. ``chunk``:
            the mean of its chunks' vectors, weighted by their tokens. ``late``: one vector per chunk, pooled from token
            vectors that have seen the full window around it (late chunking, arXiv:2409.04701); this applies to every
            text of more than ``chunk_tokens``. ``reject``: the row is rejected.
        chunk_tokens: maximum number of tokens in a chunk, without special tokens and the prompt. With None, the limit
            is that of the model's input (``chunk``) or 256 (``late``).
        overlap_tokens: number of tokens that consecutive chunks (``chunk``) or windows (``late``) share.
        deduplicate: embed a text that occurs several times in a shard once; each row still has its vector.
        calibration_rows: for int8 and uint8, the number of first rows that give the range of each dimension.

    Raises:
        InputError: a value cannot be used.
    """

    columns: Columns = field(default_factory=Columns)
    rows_per_shard: int = ROWS_PER_SHARD
    bytes_per_shard: int = BYTES_PER_SHARD
    file_format: FileFormat = "parquet"
    precision: StoredPrecision = "float32"
    normalize: bool = False
    long_texts: LongTexts = "cut"
    chunk_tokens: int | None = None
    overlap_tokens: int = 0
    deduplicate: bool = False
    calibration_rows: int = CALIBRATION_ROWS

    def __post_init__(self) -> None:
        check_whole_fields(self, "rows_per_shard", "bytes_per_shard", "calibration_rows")
        for name, kind in (("file_format", FileFormat), ("long_texts", LongTexts)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"{name} {getattr(self, name)!r} does not exist; it can be {', '.join(get_args(kind))}"
                )
        check_stored_precision(self.precision, self.file_format)
        if self.chunk_tokens is not None:
            check_whole_fields(self, "chunk_tokens")
        check_whole_fields(self, "overlap_tokens", at_least=0)
        if self.long_texts not in ("chunk", "late") and (self.chunk_tokens is not None or self.overlap_tokens):
            raise InputError("chunk_tokens and overlap_tokens mean something only where long texts are chunked")

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        values = {"format" if name == "file_format" else name: value for name, value in vars(self).items()}
        if self.precision not in CALIBRATED:
            del values["calibration_rows"]
        return {**values, "columns": self.columns.to_json()}

    @property
    def late_chunk_tokens(self) -> int:
        """Return the maximum number of tokens in a chunk with late chunking."""
        return self.chunk_tokens or _LATE_CHUNK_TOKENS


@dataclass(frozen=True)
class Model:
    """An embedder with the prompt, the temperature and the task of a job.

    Attributes:
        embedder: the embedder for the job's texts.
        prompt: the prompt that is put before each text.
        temperature: the temperature τ for the texts.
        task: the role of the texts, query or document; None for no particular role.
    """

    embedder: Embedder
    prompt: str
    temperature: Temperature
    task: str | None = None

    @classmethod
    def of(
        cls,
        embedder: Embedder | RoutedEmbedder,
        task: Literal["query", "document"] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Model:
        """Return the model for texts of a task, with the prompt that `Embedder.encode` would put before them."""
        chosen = embedder.route(task)
        name = prompt_name if task is None else chosen.prompt_name_for(task, prompt_name, prompt)
        return cls(chosen, chosen.prompt_text(name, prompt), chosen.temperature.for_task(task), task)

    def is_normalized(self, *, normalize: bool) -> bool:
        """Tell whether the vectors have norm 1."""
        config = self.embedder.metadata.model
        whole = self.embedder.embedding_dimension == config.embedding_dimension
        return normalize or (whole and bool(config.heads) and config.heads[-1].kind == "normalize")

    def to_json(self) -> dict[str, Any]:
        """Return all facts that decide the vectors to the bit, except for the versions of the software."""
        embedder, metadata = self.embedder, self.embedder.metadata
        return {
            "source": metadata.source,
            "fingerprint": embedder.header.fingerprint,
            "weights_sha256": dict(embedder.header.files),
            "config": metadata.model.encoder.to_json(),
            "pooling": metadata.model.pooling.to_json(),
            "heads": [head.to_json() for head in metadata.model.heads],
            "temperature": self.temperature.to_json(),
            "query_temperature": embedder.temperature.for_task("query").to_json(),
            "dtype": embedder.dtype,
            "max_seq_length": embedder.max_seq_length,
            "token_budget": embedder.token_budget,
            # These decide the shapes of batches and the order of sums, and so the last bits of a vector. Only the
            # devices that are used count, not all that the process sees.
            "devices": [embedder.devices[0].device_kind, len(embedder.devices)],
            "shard_parameters": embedder.pipeline.engine.shard_parameters,
            "task": self.task,
            "prompt": self.prompt,
            "truncate_dim": embedder.truncate_dim,
            "dimension": embedder.embedding_dimension,
        }


class _ModelFacts(TypedDict):
    fingerprint: str
    query_temperature: dict[str, Any]
    dtype: str
    max_seq_length: int
    task: str | None
    truncate_dim: int | None
    dimension: int


class _OptionFacts(TypedDict):
    columns: dict[str, Any]
    rows_per_shard: int
    bytes_per_shard: int
    format: FileFormat
    precision: StoredPrecision
    normalize: bool
    long_texts: LongTexts


class _InputFacts(TypedDict):
    name: str
    bytes: int


class Facts(TypedDict):
    """Facts that decide a job's output, as JSON values.

    Only the facts that tsjax uses for more than a comparison are declared here. The facts must not change, since
    digests of them are on disk. Unknown names are therefore not checked: an unknown name gives another digest, and
    differs from every job that is started.
    """

    model: _ModelFacts
    options: _OptionFacts
    versions: dict[str, str]
    vectors: dict[str, Any]
    inputs: list[_InputFacts]
    groups: list[int]
    ranges: NotRequired[list[list[float]]]


@dataclass(frozen=True)
class Job:
    """A job, as its manifest records it.

    Attributes:
        facts: ``model``, ``options``, the ``versions`` of the software, the ``inputs`` and their ``groups``, and for
            int8 and uint8 the ``ranges`` of the dimensions.
    """

    facts: Facts

    @classmethod
    def of(cls, model: Model, options: Options, plan: Plan) -> Job:
        """Return the job that embeds the inputs of a plan."""
        import jax  # noqa: PLC0415  # not needed to read a job

        width = stored_width(options.precision, model.embedder.embedding_dimension)
        facts = {
            "model": model.to_json(),
            "options": options.to_json(),
            "versions": {"tsjax": __version__, "jax": jax.__version__},
            "vectors": {"numbers": width, "normalized": model.is_normalized(normalize=options.normalize)},
            "inputs": [source.identity() for source in plan.sources],
            "groups": [len(group) for group in plan.groups],
        }
        return cls(json.loads(json.dumps(facts)))  # the same values as after reading the manifest

    @classmethod
    def recorded(cls, facts: dict[str, Any], file: Path) -> Job:
        """Return the job with the facts of a file; raise a CheckpointError if one is missing or of another type."""
        decode(facts, Facts, f"{file} is damaged: job")
        return cls(cast("Facts", facts))

    def with_ranges(self, ranges: list[list[float]] | None) -> Job:
        """Return the same job with the ranges of the dimensions."""
        return self if ranges is None else Job({**self.facts, "ranges": ranges})

    @property
    def ranges(self) -> list[list[float]] | None:
        """Return the smallest and the largest value of each dimension; None if the precision needs no ranges."""
        return self.facts.get("ranges")

    def group_files(self) -> list[list[str]]:
        """Return the names of the files of each group."""
        names = iter([source["name"] for source in self.facts["inputs"]])
        return [list(itertools.islice(names, count)) for count in self.facts["groups"]]

    def group_bytes(self) -> list[int]:
        """Return the size of each group of files in bytes."""
        sizes = iter([source["bytes"] for source in self.facts["inputs"]])
        return [sum(itertools.islice(sizes, count)) for count in self.facts["groups"]]

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the facts."""
        return json_sha256(self.facts)

    def difference(self, other: Job) -> str | None:
        """Describe the first difference from another job in words; return None if the jobs are the same.

        Ranges are compared only if both jobs have them.
        """
        mine, theirs = dict(self.facts), dict(other.facts)
        if "ranges" not in mine or "ranges" not in theirs:
            mine.pop("ranges", None)
            theirs.pop("ranges", None)
        for where, old, new in differences(mine, theirs):
            if where == "inputs":
                return next(_changed_inputs(old, new))
            return f"{where} was {_short(old)} and is {_short(new)} now"
        return None


def _changed_inputs(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[str]:
    before, after = ({source["name"]: source for source in sources} for sources in (old, new))
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"the input {name} is not given any more"
        elif name not in before:
            yield f"the input {name} was not given before"
    # Content is compared after the names, since the hashed share of a file depends on the number of files.
    for name in (name for name in before if name in after):
        for what, was, now in differences(before[name], after[name]):
            yield f"the input {name} has changed ({what} was {was} and is {now} now)"
    if list(before) != list(after):
        yield "the inputs come in another order"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
