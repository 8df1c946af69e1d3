"""Settings of encoders, checked when they are set, and the encoding fingerprint that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

import ml_dtypes  # noqa: F401  # teaches NumPy the name bfloat16
import numpy as np

from tsjax.encoders import prompts as rules
from tsjax.encoders.similarity import Similarity
from tsjax.errors import InputError
from tsjax.model.config import Dtype
from tsjax.storage.digests import json_sha256
from tsjax.temperature import Temperature
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import TextTokenizer, as_text_list, check_texts
from tsjax.text.unicode import lone_surrogate
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jax
    from jax.typing import DTypeLike
    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Header, Metadata
    from tsjax.temperature import TemperatureLike

# Sentinel: no length limit.
_NO_LIMIT = 2**31 - 1

AnyTokenizer = TypeVar("AnyTokenizer", TextTokenizer, PairTokenizer)


class ModelSettings(Generic[AnyTokenizer]):
    """Settings that all encoders share; a setting that is not given is the checkpoint's.

    Args:
        header: content of the checkpoint's config.json.
        tokenizer: tokenizer of the checkpoint, replaced when ``max_seq_length`` is set.
        dtype: compute dtype of the encoder.
        temperature: see the properties, for this and the following.
        max_seq_length: in tokens.
        prompts: prompts added to the checkpoint's.
        default_prompt_name: name of one of them.

    Raises:
        InputError: a value cannot be used.
    """

    # Names of prompts that always exist, as empty texts if no prompt is given.
    _always: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        header: Header,
        tokenizer: AnyTokenizer,
        dtype: Dtype,
        *,
        temperature: TemperatureLike | None,
        max_seq_length: int | None,
        prompts: Mapping[str, str | None] | None,
        default_prompt_name: str | None,
    ) -> None:
        self._header = header
        self._config = header.metadata.model
        self._tokenizer: AnyTokenizer = tokenizer
        self._dtype: Dtype = dtype
        self._default_prompt_name: str | None = None
        self.temperature = _given(temperature, header.metadata.temperature)
        self.max_seq_length = _given(max_seq_length, header.metadata.max_seq_length)
        self.prompts = rules.merged(header.metadata.prompts, _checked_prompts(_given(prompts, {})), self._always)
        self.default_prompt_name = _given(default_prompt_name, header.metadata.default_prompt_name)

    @property
    def header(self) -> Header:
        """Return the directory, fingerprint, files and metadata of the checkpoint."""
        return self._header

    @property
    def metadata(self) -> Metadata:
        """Return the checkpoint's metadata: architecture, pooling, heads, and the defaults of the settings below."""
        return self._header.metadata

    @property
    def dtype(self) -> Dtype:
        """Return the compute dtype of the encoder."""
        return self._dtype

    def _decisive(self) -> list[Any]:
        """Return the present settings that determine the output, as JSON values; subclasses add theirs."""
        named: list[tuple[str, str]] = [item for item in sorted(self.prompts.items()) if item[1]]
        hidden: tuple[str, ...] = rules.hidden(self.prompts, self.default_prompt_name)
        prompts: list[object] = [self.prompt_text(), *named, *hidden]
        return [self._dtype, self.temperature.to_json(), self.max_seq_length, prompts]

    def present_metadata(self) -> Metadata:
        """Return the metadata of a checkpoint with the present settings.

        Raises:
            InputError: a checkpoint cannot hold a setting.
        """
        return dataclasses.replace(
            self.metadata,
            temperature=self.temperature,
            max_seq_length=self.max_seq_length,
            prompts=dict(self.prompts),
            default_prompt_name=self.default_prompt_name,
        )

    @property
    def encoding_fingerprint(self) -> str:
        """Return the SHA-256 of everything that determines the output, to label vectors with.

        It covers the checkpoint (by its own fingerprint, which ``tsjax info`` prints), the dtype, and the present
        settings. Options of a single call are not part of it.
        """
        return json_sha256([self._header.fingerprint, *self._decisive()], sort_keys=False)

    @property
    def fingerprint(self) -> str:
        """Return `encoding_fingerprint`, under its former name."""
        return self.encoding_fingerprint

    @property
    def temperature(self) -> Temperature:
        """Return the τ used when a call gives none. Settable."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: TemperatureLike) -> None:
        self._temperature = self.check_temperature(value)

    @property
    def max_seq_length(self) -> int:
        """Return the maximum length in tokens, special ones included; longer texts are truncated. Settable.

        A model with a position table is limited to the length of the table. Rotary positions, ALiBi and T5's biases
        have no limit.
        """
        return self._tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        longest = self._config.encoder.max_length
        if whole_number("max_seq_length", value) > (longest or value):
            raise InputError(
                f"max_seq_length {value} is more than the {longest} tokens that this model's table of positions has "
                "room for; give at most that"
            )
        # A new object, not a modified one: other threads may be using the old one.
        self._tokenizer = self._tokenizer.with_max_length(value)

    @property
    def prompts(self) -> dict[str, str]:
        """Return the texts to put before the input, by name. Settable.

        As in sentence-transformers, an embedder has the prompts ``query`` and ``document`` once it is loaded; they are
        empty if neither the model nor the user gives them. Prompts that are set later replace all of them.
        """
        return self._prompts

    @prompts.setter
    def prompts(self, value: Mapping[str, str | None]) -> None:
        self._prompts = rules.merged({}, _checked_prompts(value))

    def share_prompts(self, other: Settings) -> None:
        """Use another encoder's prompts, so that a prompt added to either is added to both."""
        self._prompts = other.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """Return the name of the prompt used when a call names none. Settable."""
        return self._default_prompt_name

    @default_prompt_name.setter
    def default_prompt_name(self, value: str | None) -> None:
        if value is not None:
            self.prompt_text(value, None)
        self._default_prompt_name = value

    def check_temperature(self, value: TemperatureLike) -> Temperature:
        """Return a temperature after checking that it fits the model.

        Raises:
            InputError: it has a different number of layers or heads, or is not a temperature.
        """
        return Temperature.of(value).check(self._config.encoder.num_layers, self._config.encoder.num_heads)

    def prompt_text(self, name: str | None = None, prompt: str | None = None) -> str:
        """Return the prompt of a call.

        Args:
            name: one of `prompts`; None for the default prompt.
            prompt: the text itself, which takes precedence over ``name``.

        Raises:
            InputError: there is no prompt of that name.
        """
        if prompt is not None:
            return _check_prompt(prompt, "a prompt")
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        prompts = self.prompts  # read once: another thread may set others meanwhile
        if not isinstance(name, str) or name not in prompts:
            known = ", ".join(map(repr, prompts)) or "none"
            raise InputError(f"there is no prompt named {name!r}; this model has {known}")
        return prompts[name]


class Settings(ModelSettings[TextTokenizer]):
    """Settings of an `Embedder`: those of `ModelSettings`, and the truncation and similarity of its vectors.

    Args:
        header: content of the checkpoint's config.json.
        tokenizer: tokenizer of the checkpoint.
        dtype: compute dtype of the encoder.
        truncate_dim: number of leading dimensions to keep.
        similarity_fn_name: cosine, dot, euclidean or manhattan.
        options: the other arguments of `ModelSettings`.

    Raises:
        InputError: a value cannot be used.
    """

    _always = rules.ALWAYS

    def __init__(
        self,
        header: Header,
        tokenizer: TextTokenizer,
        dtype: Dtype,
        *,
        truncate_dim: int | None,
        similarity_fn_name: Similarity | None,
        **options: Any,
    ) -> None:
        super().__init__(header, tokenizer, dtype, **options)
        self.truncate_dim = _given(truncate_dim, header.metadata.truncate_dim)
        self.similarity_fn_name = _given(similarity_fn_name, header.metadata.similarity_fn_name)
        rules.say_hidden(header.metadata.source, rules.hidden(self.prompts, self.default_prompt_name))

    def _decisive(self) -> list[Any]:
        return [*super()._decisive(), self.truncate_dim]

    def present_metadata(self) -> Metadata:
        """Return the metadata of a checkpoint with the present settings."""
        metadata = super().present_metadata()
        # Loading adds these prompts to every embedder; a prompt that was removed is saved as the text that replaced it.
        standing_in = {name: self.prompt_text(rules.name_for(name, self.prompts), None) for name in rules.ALWAYS}
        prompts = {**standing_in, **metadata.prompts}
        for name in rules.ALWAYS:
            if not prompts[name] and name not in self.metadata.prompts:
                del prompts[name]  # as in the checkpoint, so that unchanged settings keep their fingerprint
        return dataclasses.replace(
            metadata,
            prompts=prompts,
            truncate_dim=self.truncate_dim,
            similarity_fn_name=self.similarity_fn_name,
        )

    @property
    def truncate_dim(self) -> int | None:
        """Return the number of leading dimensions kept when a call gives none; None for all. Settable."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = self._checked_dim(value)

    @property
    def similarity_fn_name(self) -> Similarity:
        """Return the name of the comparison in `similarity`: cosine, dot, euclidean or manhattan. Settable."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Similarity) -> None:
        if value not in get_args(Similarity):
            raise InputError(f"similarity {value!r} does not exist; it can be {', '.join(get_args(Similarity))}")
        self._similarity_fn_name = value

    def count_tokens(self, inputs: Sequence[str], *, task: str | None = None) -> NDArray[np.int32]:
        """Count the tokens of each text before truncation, special ones included, without prompts: int32 (n,).

        Args:
            inputs: the texts.
            task: purpose of the texts; selects among the tokenizers of a `RoutedEmbedder`; this class has one.

        Raises:
            InputError: a text is not a string.
        """
        return self._tokenizer.with_max_length(_NO_LIMIT).encode(check_texts(as_text_list(inputs))).lengths

    def _checked_dim(self, value: int | None) -> int | None:
        if value is not None and whole_number("truncate_dim", value) > self._config.embedding_dimension:
            raise InputError(
                f"truncate_dim {value} is more than the {self._config.embedding_dimension} dimensions there are"
            )
        return value


def _given(value: Any, saved: Any) -> Any:
    return saved if value is None else value


def _checked_prompts(prompts: Mapping[str, str | None]) -> Mapping[str, str | None]:
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts must be texts by name, not {prompts!r}")
    for name, prompt in prompts.items():
        if not isinstance(name, str):
            raise InputError(f"the name of a prompt must be a string, not {name!r}")
        if prompt is not None:
            _check_prompt(prompt, f"prompt {name!r}")
    return prompts


def _check_prompt(prompt: object, what: str) -> str:
    if not isinstance(prompt, str):
        raise InputError(f"{what} must be a string, not {prompt!r}")
    if (place := lone_surrogate(prompt)) is not None:
        raise InputError(f"{what} has a lone surrogate at character {place}: not valid Unicode")
    return prompt


def dtype_name(dtype: DTypeLike) -> Dtype:
    """Return the name of a compute dtype, in any spelling that JAX accepts.

    Raises:
        InputError: it is another dtype, or not a dtype.
    """
    try:
        name: Any = dtype if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = dtype
    if name not in get_args(Dtype):
        raise InputError(f"dtype {dtype!r} is not supported; it can be {', '.join(get_args(Dtype))}")
    return name


def check_device(device: object, devices: Sequence[jax.Device]) -> None:
    """Check that a model computes on a device as sentence-transformers names it, such as "cuda:0".

    Raises:
        InputError: the model computes on another device.
    """
    if device is None:
        return
    platform, _, number = str(device).partition(":")
    same = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform) == devices[0].platform
    if same and (not number or [str(each.id) for each in devices] == [number]):
        return
    raise InputError(
        f"device {device!r} is not what this model computes on: {', '.join(map(str, devices))}; leave it out, or "
        "choose with tsjax.load(…, devices=…), which takes JAX's devices, such as jax.devices('cpu')"
    )


def check_unused(**arguments: object) -> None:
    """Raise an InputError for arguments that exist only for sentence-transformers' signatures and are not None."""
    for name, value in arguments.items():
        if value is not None:
            raise InputError(f"{name} has no meaning here: one process uses every core and device; leave it out")
