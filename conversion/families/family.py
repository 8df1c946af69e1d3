"""What a family is: its config fields, its weights, and how its names vary; and the pieces that recur in families."""

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

# Fields of every Hugging Face config that would change it, and the values under which they do not.
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

# More is a damaged config; the table of weights has a row for each layer.
MOST_LAYERS = 1000

# The way back, where a name has several.
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


# What most families call their sizes.
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
}

# Training, and other things that cannot change what an encoder computes, under their usual names.
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
        names: how names in files vary.
        marker: part of a name that only files of this spelling have; empty for the spelling to fall back on.
    """

    rules: Callable[[EncoderConfig], tuple[Rule, ...]]
    names: Names = field(default_factory=Names)
    marker: str = ""


@dataclass(frozen=True)
class Family:
    """One architecture, as data.

    Attributes:
        name: what people call it.
        model_type: what config.json calls it.
        fields: fields of config.json that are fields of `EncoderConfig` under another name.
        spellings: how files name the weights. The first is the one to export to.
        constants: the fields of `EncoderConfig` that are the same in the whole family.
        aliases: other names that transformers has for fields of config.json, and the names that they stand for.
        defaults: values of those of ``fields`` that may be absent.
        harmless: fields of this family that cannot change a vector, besides `HARMLESS`.
        required: fields of this family that must have one of these values, besides `REQUIRED`.
        read: gives the fields of `EncoderConfig` that follow from config.json in another way.
        write: the inverse of ``read``: fields of config.json.
        matches: whether a config.json of this model type is of this family, where several share a model type.
        model_class: transformers' class of the bare encoder, for config.json.
        pooler: the layer that transformers puts on the first token; empty where there is none.
        base_name: what the files of models with heads put before the names of the encoder.
        classifier: the head of a cross-encoder; None where this family has none that is known here.
        modules: types in modules.json, other than sentence-transformers' own, that run this encoder and no more.
        exportable: whether transformers has a class that reads what is exported.
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
        """The weights of the pooler."""
        return tuple(linear(self.pooler, "pooler"))

    def has_pooler(self, names: Collection[str], spelling: Spelling) -> bool:
        """Whether a file that holds weights of these names has the pooler."""
        wanted = f"{self.pooler}.weight"
        return bool(self.pooler) and any(spelling.names.canonical(name) == wanted for name in names)

    def translate(self, fields: Fields) -> EncoderConfig:
        """The architecture that a config.json describes, every field of it accounted for.

        Raises:
            ConversionError: a field is missing, unknown, or has a value that cannot be run.
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
        except ConversionError:  # which names the file
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ConversionError(f"{fields.file} has fields that make no sense together: {error}") from error
        fields.done()
        return encoder

    def config(self, encoder: EncoderConfig) -> dict[str, Any]:
        """The inverse of `translate`: the fields of a config.json."""
        values = {}
        for theirs, ours in self.fields.items():
            value = getattr(encoder, ours)
            if ours == "activation":
                # Of several names that mean the same, the family's own: transformers computes each in its own way.
                usual = self.defaults.get(theirs)
                value = usual if ACTIVATIONS.get(str(usual)) == value else ACTIVATION_NAMES[value]
            values[theirs] = value
        return {"model_type": self.model_type, "architectures": [self.model_class], **values, **self.write(encoder)}

    @property
    def classifier_class(self) -> str:
        """Transformers' class of the encoder with the head of a cross-encoder."""
        return f"{self.model_class.removesuffix('Model')}ForSequenceClassification"

    def spelling(self, names: Collection[str]) -> Spelling:
        """The spelling of a file that holds weights of these names."""
        for spelling in self.spellings:
            if spelling.marker and any(spelling.marker in name for name in names):
                return spelling
        return next(spelling for spelling in self.spellings if not spelling.marker)


_KINDS = get_type_hints(EncoderConfig)
_MAY_BE_ZERO = {"type_vocab_size", "position_padding_id"}


def _take(fields: Fields, theirs: str, ours: str, default: Any) -> Any:
    """The value of a field of theirs as a field of ours; an Ellipsis says that there is no default."""
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
    """Our name of an activation.

    Raises:
        ConversionError: there is none.
    """
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConversionError(f"{file}: activation {name!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def take_rope(fields: Fields, default_theta: float) -> dict[str, float]:
    """Return the rotation that a config.json describes, in the old fields and in the new one.

    The precedence is that of transformers: a ``rope_scaling`` that says anything replaces ``rope_parameters``, and the
    ``rope_theta`` beside them counts where the one that is used names no base.

    Raises:
        ConversionError: it is scaled in a way that is not known here.
    """
    fields.require("partial_rotary_factor", 1)
    theta = fields.take("rope_theta", default_theta, (int, float))
    scaling, parameters = fields.take("rope_scaling", {}, dict), fields.take("rope_parameters", {}, dict)
    return rope({"rope_theta": theta, **(scaling or parameters)}, fields.file)


def rope(parameters: Mapping[str, Any], file: str) -> dict[str, float]:
    """Return the fields of `EncoderConfig` for Hugging Face's parameters of a rotation.

    ``type`` is the old name of ``rope_type``, which wins where both are given, as in transformers.

    Raises:
        ConversionError: as for `take_rope`.
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
    """The inverse of `rope`."""
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def write_rope(encoder: EncoderConfig) -> dict[str, Any]:
    """The inverse of `take_rope`."""
    return {"rope_parameters": rope_parameters(encoder.rope_theta, encoder.rope_factor)}


# -- rules that recur -------------------------------------------------------------------------------------------------


def into_heads(
    torch: str, ours: str, *, heads: str = "n", bias: bool = True, part: tuple[int, int] = (0, 1)
) -> list[Rule]:
    """A projection from D to heads."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", f"({heads} h) d -> d {heads} h", part)]
    if bias:
        rules.append(Rule(f"{torch}.bias", f"{ours}.bias", f"({heads} h) -> {heads} h", part))
    return rules


def out_of_heads(torch: str, ours: str, *, bias: bool = True) -> list[Rule]:
    """A projection from heads to D."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", "d (n h) -> n h d")]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias")] if bias else rules


def attention(query: str, key: str, value: str, out: str, *, bias: bool = True, groups: bool = False) -> list[Rule]:
    """The four projections of attention; ``groups`` where keys and values may have fewer heads."""
    ours, heads = "layers.{i}.attention", "k" if groups else "n"
    return [
        *into_heads(query, f"{ours}.query", bias=bias),
        *into_heads(key, f"{ours}.key", heads=heads, bias=bias),
        *into_heads(value, f"{ours}.value", heads=heads, bias=bias),
        *out_of_heads(out, f"{ours}.out", bias=bias),
    ]


def packed_attention(packed: str, out: str, *, bias: bool = True) -> list[Rule]:
    """The same where query, key and value are one matrix."""
    ours = "layers.{i}.attention"
    parts = [
        into_heads(packed, f"{ours}.{name}", bias=bias, part=(i, 3)) for i, name in enumerate(("query", "key", "value"))
    ]
    return [*(rule for part in parts for rule in part), *out_of_heads(out, f"{ours}.out", bias=bias)]


def linear(torch: str, ours: str, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> list[Rule]:
    """A matrix from the last axis to another."""
    rules = [Rule(f"{torch}.weight", f"{ours}.kernel", "o i -> i o", part)]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias", "", part)] if bias else rules


def norm(torch: str, ours: str, *, bias: bool = True, first_layer: int = 0) -> list[Rule]:
    """A norm."""
    rules = [Rule(f"{torch}.weight", f"{ours}.scale", first_layer=first_layer)]
    return [*rules, Rule(f"{torch}.bias", f"{ours}.bias", first_layer=first_layer)] if bias else rules


def embedding(torch: str, ours: str) -> Rule:
    """A table of embeddings."""
    return Rule(f"{torch}.weight", f"{ours}.embedding")
