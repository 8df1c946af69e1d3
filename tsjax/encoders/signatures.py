"""Keywords of loading and encoding, and the return types of `encode` by keyword, each declared once.

`Encode` has the overloads of ``encode``, ``encode_query`` and ``encode_document`` of every embedder, `Stream` those of
``stream``. They are for type checkers: a method decorated by `encode_method` keeps its own parameters at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypedDict, cast, overload

from tsjax.checkpoints.conversion_options import SourceOptions
from tsjax.validation.keywords import strict_keywords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    import jax
    import numpy as np
    from jax.typing import DTypeLike
    from numpy.typing import NDArray

    from tsjax.encoders.quantization import Precision, QuantizedVectors
    from tsjax.encoders.similarity import Similarity
    from tsjax.temperature import TemperatureLike

OutputValue: TypeAlias = Literal["sentence_embedding", "token_embeddings"]

# Device name of sentence-transformers and PyTorch: "cpu", "cuda", "cuda:0", "tpu".
DeviceName: TypeAlias = str


class PlacementOptions(TypedDict, total=False):
    """Keywords of the devices to compute on."""

    devices: int | jax.Device | Sequence[jax.Device] | None
    shard_parameters: bool


class ComputeOptions(PlacementOptions, total=False):
    """Keywords of every class that computes: dtype, devices and settings."""

    temperature: TemperatureLike | None
    dtype: DTypeLike
    max_seq_length: int | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    token_budget: int | None


class VectorOptions(TypedDict, total=False):
    """Keywords of loading that apply to vectors only, not to scores."""

    truncate_dim: int | None
    similarity_fn_name: Similarity | None


class EmbedderOptions(ComputeOptions, VectorOptions, total=False):
    """Keywords of `Embedder`."""


class LoadOptions(SourceOptions, EmbedderOptions, total=False):
    """Keywords of `tsjax.load`, except the kind."""

    device: DeviceName | None


class EncodeOptions(TypedDict, total=False):
    """Keywords of ``encode`` that do not change its return type."""

    batch_size: int | None
    show_progress_bar: bool | None
    device: DeviceName | None
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: None
    chunk_size: None
    temperature: TemperatureLike | None
    task: str | None


class BlockOptions(EncodeOptions, total=False):
    """Keywords of ``encode`` for one array of vectors, except their precision."""

    prompt_name: str | None
    prompt: str | None


class AnyEncodeOptions(BlockOptions, total=False):
    """All keywords of ``encode``, except the texts."""

    output_value: OutputValue | None
    precision: Precision
    convert_to_numpy: bool
    convert_to_tensor: bool


class TextDetails(TypedDict):
    """Result of ``encode(…, output_value=None)`` for one text.

    Attributes:
        input_ids: integers (tokens,).
        attention_mask: ones (tokens,).
        token_embeddings: float32 (tokens, D).
        sentence_embedding: float32 (D,).
    """

    input_ids: NDArray[np.integer]
    attention_mask: NDArray[np.integer]
    token_embeddings: NDArray[np.float32]
    sentence_embedding: NDArray[np.float32]


if TYPE_CHECKING:
    Vectors: TypeAlias = NDArray[np.float32]
    Encoded: TypeAlias = (
        QuantizedVectors | jax.Array | list[jax.Array] | list[Vectors] | TextDetails | list[TextDetails]
    )


class Encode(Protocol):
    """Type of ``encode``, ``encode_query`` and ``encode_document``."""

    @overload
    def __call__(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["float32"] = ...,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> Vectors: ...
    @overload
    def __call__(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["int8", "binary"],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> NDArray[np.int8]: ...
    @overload
    def __call__(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Literal["uint8", "ubinary"],
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> NDArray[np.uint8]: ...
    @overload
    def __call__(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **options: Unpack[EncodeOptions],
    ) -> jax.Array: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a string is an iterable of strings, too
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision = ...,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> jax.Array: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["sentence_embedding"] = ...,
        precision: Precision = ...,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[EncodeOptions],
    ) -> list[jax.Array]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["token_embeddings"],
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> Vectors: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: Literal["token_embeddings"],
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> list[Vectors]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        inputs: str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: None,
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> TextDetails: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        output_value: None,
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> list[TextDetails]: ...
    @overload  # by position, in sentence-transformers' order, or with values known only at run time
    def __call__(
        self,
        inputs: str | Iterable[str] | None = ...,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        output_value: OutputValue | None = ...,
        precision: Precision = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        device: DeviceName | None = ...,
        normalize_embeddings: bool = ...,
        truncate_dim: int | None = ...,
        pool: None = ...,
        chunk_size: None = ...,
        *,
        temperature: TemperatureLike | None = ...,
        task: str | None = ...,
        sentences: str | Iterable[str] | None = ...,
    ) -> Encoded: ...


class EncodeMethod(Protocol):
    """Method of the type `Encode`."""

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Encoded]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Encode: ...


class Stream(Protocol):
    """Type of ``stream``."""

    @overload
    def __call__(
        self,
        inputs: Iterable[str],
        *,
        block_size: int = ...,
        precision: Literal["float32"] = ...,
        **options: Unpack[BlockOptions],
    ) -> Iterator[Vectors]: ...
    @overload
    def __call__(
        self, inputs: Iterable[str], *, block_size: int = ..., precision: Precision, **options: Unpack[BlockOptions]
    ) -> Iterator[QuantizedVectors]: ...
    @overload
    def __call__(
        self, inputs: Iterable[str], *, block_size: int = ..., **options: Unpack[AnyEncodeOptions]
    ) -> Iterator[Encoded]: ...


class StreamMethod(Protocol):
    """Method of the type `Stream`."""

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Iterator[Encoded]]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Stream: ...


# Keywords that are refused with an error that names the function they belong to.
OF_LOAD = dict.fromkeys(LoadOptions.__annotations__, "it is an argument of tsjax.load")


class _Texts(TypedDict, total=False):
    inputs: str | Iterable[str]
    sentences: str | Iterable[str]


class _Blocks(TypedDict, total=False):
    block_size: int


def encode_method(function: Callable[..., Encoded]) -> EncodeMethod:
    """Give a method the overloads of `Encode` and the check of its keywords."""
    return cast("EncodeMethod", strict_keywords(_Texts, AnyEncodeOptions, elsewhere=OF_LOAD)(function))


def stream_method(function: Callable[..., Iterator[Encoded]]) -> StreamMethod:
    """Give a method the overloads of `Stream` and the check of its keywords."""
    return cast("StreamMethod", strict_keywords(_Blocks, AnyEncodeOptions, elsewhere=OF_LOAD)(function))
