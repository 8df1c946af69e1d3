"""The definition of a family: its config fields, weights and variants of names; and parts that families share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from conversion.rules import Names, Rule
from tsjax.errors import ConfigError, ConversionError
from tsjax.model.config import Activation, EncoderConfig
from tsjax.validation.numbers import is_finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from conversion.classifier import MakeClassifier
    from conversion.fields import Fields

# Fields of every Hugging Face config, from version 2 to 5, that cannot change what the encoder computes.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _name_or_path
    _num_labels architectures attn_implementation bos_token_id chunk_size_feed_forward cls_token_id
    decoder_start_token_id dtype eos_token_id export_model_type finetuning_task gradient_checkpointing id2label label2id
    language mask_token_id model_max_length name_or_path num_labels output_attentions output_hidden_states output_past
    prefix problem_type return_dict
    sep_token_id task_specific_params tf_legacy_loss tie_weights_ tie_word_embeddings tokenizer_class torch_dtype
    torchscript transformers.js_config transformers_version use_bfloat16 use_cache

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_assistant_tokens
    num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()
)

# Fields of every Hugging Face config that would change the result, and the values under which they do not.
REQUIRED: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "auto_map": (),  # foreign code
    "cross_attention_hidden_size": (),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "tie_encoder_decoder": (False,),
}

# A higher number means a damaged config; the table of weights has a row for each layer.
MOST_LAYERS = 1000

# Names for export, where an activation has several.
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "identity": "linear",
}

# Hugging Face's names of activations; "gelu" there is the exact form.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


# The most common names of the sizes.
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
}

# Training options and other fields that cannot change the result of an encoder, under their usual names.
TRAINING = frozenset(
    """
    attention_dropout attention_probs_dropout_prob classifier_dropout embedding_dropout hidden_dropout_prob
    initializer_range mlp_dropout
    """.split()
)


@dataclass(frozen=True)
class Spelling:
    """One way in which files name and pack the weights of a family.

    Attributes:
        rules: the weights of an architecture.
        names: the variants of names in files.
        marker: part of a name that only files of this spelling have; empty for the default spelling.
    """

    rules: Callable[[EncoderConfig], tuple[Rule, ...]]
    names: Names = field(default_factory=Names)
    marker: str = ""


@dataclass(frozen=True)
class Family:
    """One architecture, as data.

    Attributes:
        name: the common name of the family.
        model_type: its name in config.json.
        fields: fields of config.json that are fields of `EncoderConfig` under another name.
        spellings: the names of weights in files. The first is used for export.
        constants: the fields of `EncoderConfig` that are the same in the whole family.
        aliases: transformers' alternative names for fields of config.json, and the names that they stand for.
        defaults: values of those of ``fields`` that may be absent.
        harmless: fields of this family that cannot change a vector, in addition to `HARMLESS`.
        required: fields of this family that must have one of these values, in addition to `REQUIRED`.
        read: returns the fields of `EncoderConfig` that are derived from config.json in another way.
        write: the inverse of ``read``: fields of config.json.
        matches: whether a config.json of this model type is of this family, where several share a model type.
        model_class: transformers' class of the bare encoder, for config.json.
        pooler: the layer that transformers puts on the first token; empty where there is none.
        base_name: the prefix of the encoder's names in the files of models with heads.
        classifier: the head of a cross-encoder; None where no head of this family is supported.
        modules: types in modules.json, outside sentence-transformers, that run this encoder and nothing else.
        exportable: whether transformers has a class that reads an exported checkpoint.
    """

    name: str
    model_type: str
    fields: Mapping[str, str]
    spellings: tuple[Spelling, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    read: Callable[[Fields], dict[str, Any]] = lambda fields: {}
    write: Callable[[EncoderConfig], dict[str, Any]] = lambda config: {}
    matches: Callable[[Mapping[str, Any]], bool] = lambda config: True
    model_class: str = ""
    pooler: str = ""
    base_name: str = ""
    classifier: MakeClassifier | None = None
    modules: frozenset[str] = frozenset()
    exportable: bool = True

    def pooler_rules(self) -> tuple[Rule, ...]:
        """Return the rules of the pooler's weights."""
        return tuple(linear(self.pooler, "pooler"))

    def has_pooler(self, names: Collection[str], spelling: Spelling) -> bool:
        """Return whether a file that holds weights of these names has the pooler."""
        wanted = f"{self.pooler}.weight"
        return bool(self.pooler) and any(spelling.names.canonical(name) == wanted for name in names)

    def translate(self, fields: Fields) -> EncoderConfig:
        """Return the architecture that a config.json describes, with every field of it accounted for.

        Raises:
            ConversionError: a field is missing, unknown, or has a value that is not supported.
        """
        for alias, name in self.aliases.items():
            fields.rename(alias, name)
        fields.harmless({"model_type", *HARMLESS, *self.harmless})
        for name, allowed in {**REQUIRED, **self.required}.items():
            if name not in self.harmless:
                fields.require(name, *allowed)
        try:
            values = dict(self.constants)
            for theirs, ours in self.fields.items():
                values[ours] = _take(fields, theirs, ours, self.defaults.get(theirs, Ellipsis))
            encoder = EncoderConfig(**{**values, **self.read(fields)})
        except ConfigError as error:
            raise ConversionError(f"{fields.file}: {error}") from error
        except ConversionError:  # its message names the file
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ConversionError(f"{fields.file} has fields that make no sense together: {error}") from error
        fields.done()
        return encoder

    def config(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Return the fields of a config.json: the inverse of `translate`."""
        values = {}
        for theirs, ours in self.fields.items():
            value = getattr(encoder, ours)
            if ours == "activation":
                # Several names mean the same activation. Use the family's default, because transformers computes each
                # differently.
                usual = self.defaults.get(theirs)
                value = usual if ACTIVATIONS.get(str(usual)) == value else ACTIVATION_NAMES[value]
            values[theirs] = value
        return {"model_type": self.model_type, "architectures": [self.model_class], **values, **self.write(encoder)}

    @property
    def classifier_class(self) -> str:
        """Return transformers' class of the encoder with the head of a cross-encoder."""
        return f"{self.model_class.removesuffix('Model')}ForSequenceClassification"

    def spelling(self, names: Collection[str]) -> Spelling:
        """Return the spelling of a file that holds weights of these names."""
        for spelling in self.spellings:
            if spelling.marker and any(spelling.marker in name for name in names):
                return spelling
        return next(spelling for spelling in self.spellings if not spelling.marker)


_KINDS = get_type_hints(EncoderConfig)
_MAY_BE_ZERO = {"type_vocab_size", "position_padding_id"}


def _take(fields: Fields, theirs: str, ours: str, default: Any) -> Any:
    """Return the value of a config.json field for a field of `EncoderConfig`; an Ellipsis means no default."""
    given = {} if default is Ellipsis else {"default": default}
    if ours == "activation":
        return activation(fields.take(theirs, kind=str, **given), fields.file)
    kinds = {_KINDS[ours], *get_args(_KINDS[ours])}
    if bool in kinds:
        return fields.take(theirs, kind=bool, **given)
    if int in kinds:
        bounds = {"most": MOST_LAYERS} if ours == "num_layers" else {"least": 0} if ours in _MAY_BE_ZERO else {}
        return fields.take_count(theirs, **given, **bounds)
    value = fields.take(theirs, kind=(int, float), **given)
    return None if value is None else float(value)


def activation(name: str, file: str) -> Activation:
    """Return the tsjax name of an activation.

    Raises:
        ConversionError: the activation is not supported.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConversionError(f"{file}: activation {name!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def take_rope(fields: Fields, default_theta: float) -> dict[str, float]:
    """Return the rotation that a config.json describes, in the old fields and in the new one.

    The precedence is that of transformers: a ``rope_scaling`` with a value replaces ``rope_parameters``, and the
    ``rope_theta`` next to them counts where the selected field names no base.

    Raises:
        ConversionError: the rotation is scaled in an unknown way.
    """
    fields.require("partial_rotary_factor", 1)
    theta = fields.take("rope_theta", default_theta, (int, float))
    scaling, parameters = fields.take("rope_scaling", {}, dict), fields.take("rope_parameters", {}, dict)
    return rope({"rope_theta": theta, **(scaling or parameters)}, fields.file)


def rope(parameters: Mapping[str, Any], file: str) -> dict[str, float]:
    """Return the fields of `EncoderConfig` for Hugging Face's parameters of a rotation.

    ``type`` is the old name of ``rope_type``, which wins where both are given, as in transformers.

    Raises:
        ConversionError: see `take_rope`.
    """
    left = {name: value for name, value in parameters.items() if value is not None}
    old_name = left.pop("type", "default")
    kind, theta = left.pop("rope_type", old_name), left.pop("rope_theta", None)
    factor = left.pop("factor", None if kind == "linear" else 1.0)
    if left.pop("partial_rotary_factor", 1.0) != 1:
        raise ConversionError(f"{file}: heads that are rotated in part are not supported")
    if kind not in ("default", "linear") or left:
        raise ConversionError(f"{file}: rotary positions with {dict(parameters)!r:.200} are not supported")
    if not all(is_finite_number(value) for value in (theta, factor)):
        raise ConversionError(f"{file}: rope_theta = {theta!r:.60} and factor = {factor!r:.60} must be finite numbers")
    return {"rope_theta": float(theta), "rope_factor": float(factor) if kind == "linear" else 1.0}


def rope_parameters(theta: float | None, factor: float = 1.0) -> dict[str, Any]:
    """Return Hugging Face's parameters of a rotation: the inverse of `rope`."""
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def write_rope(encoder: EncoderConfig) -> dict[str, Any]:
    """Return the fields of config.json for a rotation: the inverse of `take_rope`."""
    return {"rope_parameters": rope_parameters(encoder.rope_theta, encoder.rope_factor)}


# -- shared rules -----------------------------------------------------------------------------------------------------


def into_heads(
    torch: str, ours: str, *, heads: str = "n", bias: bool = True, part: tuple[int, int] = (0, 1)
) -> list[Rule]:
    """Return the rules of a projection from D to heads."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", f"({heads} h) d -> d {heads} h", part)]
    if bias:
        rules.append(Rule(f"{torch}.bias", f"{ours}.bias", f"({heads} h) -> {heads} h", part))
    return rules


def out_of_heads(torch: str, ours: str, *, bias: bool = True) -> list[Rule]:
    """Return the rules of a projection from heads to D."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", "d (n h) -> n h d")]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias")] if bias else rules


def attention(query: str, key: str, value: str, out: str, *, bias: bool = True, groups: bool = False) -> list[Rule]:
    """Return the rules of attention's four projections; ``groups`` where keys and values may have fewer heads."""
    ours, heads = "layers.{i}.attention", "k" if groups else "n"
    return [
        *into_heads(query, f"{ours}.query", bias=bias),
        *into_heads(key, f"{ours}.key", heads=heads, bias=bias),
        *into_heads(value, f"{ours}.value", heads=heads, bias=bias),
        *out_of_heads(out, f"{ours}.out", bias=bias),
    ]


def packed_attention(packed: str, out: str, *, bias: bool = True) -> list[Rule]:
    """Return the rules of attention's four projections where query, key and value are one matrix."""
    ours = "layers.{i}.attention"
    parts = [
        into_heads(packed, f"{ours}.{name}", bias=bias, part=(i, 3)) for i, name in enumerate(("query", "key", "value"))
    ]
    return [*(rule for part in parts for rule in part), *out_of_heads(out, f"{ours}.out", bias=bias)]


def linear(torch: str, ours: str, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> list[Rule]:
    """Return the rules of a matrix from the last axis to another."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", "o i -> i o", part)]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias", "", part)] if bias else rules


def norm(torch: str, ours: str, *, bias: bool = True, first_layer: int = 0) -> list[Rule]:
    """Return the rules of a norm."""
    rules = [Rule(f"{torch}.weight", f"{ours}.scale", first_layer=first_layer)]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias", first_layer=first_layer)] if bias else rules


def embedding(torch: str, ours: str) -> Rule:
    """Return the rule of an embedding table."""
    return Rule(f"{torch}.weight", f"{ours}.embedding")
