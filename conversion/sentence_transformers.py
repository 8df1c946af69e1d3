"""The configs of the modules in a sentence-transformers directory, in every version so far.

Version 5.4 changed the pooling config from booleans to ``pooling_mode`` and the types in modules.json to longer paths.
Libraries that missed the change pooled wrongly without an error, so an unknown type, mode or field is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from conversion.activations import torch_activation
from conversion.fields import Fields
from conversion.heads import HeadSource, dense_rules, layer_norm_rules
from conversion.modules import MODEL_CONFIG, TRANSFORMER_CONFIGS
from conversion.source import read_json_object
from tsjax.checkpoints.format import Kind
from tsjax.encoders.prompts import ALWAYS, merged
from tsjax.encoders.similarity import Similarity
from tsjax.errors import ConversionError
from tsjax.model.config import Activation, HeadConfig, PoolingConfig, PoolingMode
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from conversion.heads import Classifier
    from conversion.modules import Module

# The booleans of old pooling configs, in the order in which sentence-transformers concatenates.
POOLING_BOOLEANS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# The function of a Transformer module by kind of model: its task, its output's name, and transformers' name of that
# output.
TASKS: dict[Kind, tuple[str, str, str]] = {
    "embedder": ("feature-extraction", "token_embeddings", "last_hidden_state"),
    "cross_encoder": ("sequence-classification", "scores", "logits"),
}


@dataclass(frozen=True)
class Stack:
    """The settings of a sentence-transformers directory around the encoder; the defaults are those of a bare encoder.

    Attributes:
        pooling: mean pooling where there is no modules.json; sentence-transformers then reads none of its own files.
        heads: the modules after pooling.
        max_seq_length: maximum length in tokens; None if it is not stated.
        lower_case: whether text is lower-cased before it is tokenised.
        prompts: the prompts by name.
        default_prompt_name: the prompt that is used when none is named.
        similarity_fn_name: the intended function to compare vectors.
        truncate_dim: leading dimensions to keep; None for all.
        kind: the kind of model.
        activation: the activation that a cross-encoder applies to its logits.
    """

    pooling: PoolingConfig = PoolingConfig()
    heads: tuple[HeadSource, ...] = ()
    max_seq_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    kind: Kind = "embedder"
    activation: Activation = "identity"


def read_stack(directory: Path, modules: Sequence[Module], hidden_size: int, ignore: Collection[str] = ()) -> Stack:
    """Read the configs of the modules around the encoder.

    Args:
        directory: the checkpoint.
        modules: an encoder, its pooling, and heads.
        hidden_size: width of the encoder.
        ignore: names of config fields that the user chose to ignore.

    Raises:
        ConversionError: an unknown field, mode or activation, or modules that do not fit each other.
    """
    options = _model_options(directory, "SentenceTransformer", ignore)
    del options["activation"]
    if len(modules) == 1:
        raise ConversionError(f"{modules[0].file}: a Transformer alone is not an embedding model")
    transformer, pooling_module, *head_modules = modules
    pooling = _pooling(pooling_module.path, hidden_size, ignore)
    width = hidden_size * len(pooling.modes)
    heads = []
    for module in head_modules:
        heads.append(_HEADS[module.kind](module.path, width, ignore))
        width = heads[-1].config.out_features
    transformer_options = _transformer_options(transformer.path, TASKS["embedder"], ignore)
    return Stack(pooling, tuple(heads), **transformer_options, **options)


def read_scorer(
    directory: Path,
    modules: Sequence[Module],
    classifier: Classifier,
    saved: Mapping[str, Any],
    ignore: Collection[str] = (),
) -> Stack:
    """Read the configs of a cross-encoder: its pooling, its head, and the activation of its logits.

    Args:
        directory: the checkpoint.
        modules: a Transformer, or no module.
        classifier: the head of its family.
        saved: config.json, where older versions keep the activation.
        ignore: names of config fields that the user chose to ignore.

    Raises:
        ConversionError: as for `read_stack`.
    """
    path = directory
    options: dict[str, Any] = {"activation": None}
    if modules:  # as in sentence-transformers, its files count only with a modules.json
        path = modules[0].path
        options = _model_options(directory, "CrossEncoder", ignore)
        options |= _transformer_options(path, TASKS["cross_encoder"], ignore)
    older = Fields(saved, str(path / "config.json")).take("sentence_transformers", {}, dict).get("activation_fn")
    oldest = saved.get("sbert_ce_default_activation_function")
    labels = classifier.steps[-1][0].out_features
    options["activation"] = _score_activation((options["activation"], older, oldest), labels, str(directory))
    heads = tuple(HeadSource(config, path, rules) for config, rules in classifier.steps)
    return Stack(PoolingConfig(modes=(classifier.pooling,)), heads, kind="cross_encoder", **options)


def _pooling(path: Path, width: int, ignore: Collection[str]) -> PoolingConfig:
    file = path / "config.json"
    fields = Fields(read_json_object(file), str(file), ignore)
    for name in ("embedding_dimension", "word_embedding_dimension"):  # the new name and the old
        if (dimension := fields.take_count(name, width)) != width:
            raise ConversionError(f"{file}: {name} is {dimension}, and the encoder gives {width}")
    old = tuple(mode for name, mode in POOLING_BOOLEANS.items() if fields.take(name, default=False, kind=bool))
    modes = fields.take("pooling_mode", list(old) or ["mean"], (str, list))
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes:
        raise ConversionError(f"{file}: pooling_mode names no mode")
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise ConversionError(f"{file}: unknown pooling mode {mode!r}; known: {', '.join(get_args(PoolingMode))}")
    include_prompt = fields.take("include_prompt", default=True, kind=bool)
    fields.done()
    return PoolingConfig(modes=modes, include_prompt=include_prompt)


def _dense(path: Path, width: int, ignore: Collection[str]) -> HeadSource:
    fields = _head_fields(path, ignore)
    activation = str(fields.take("activation_function", "torch.nn.modules.activation.Tanh"))
    config = HeadConfig(
        kind="dense",
        in_features=fields.take_count("in_features"),
        out_features=fields.take_count("out_features"),
        use_bias=fields.take("bias", default=True, kind=bool),
        activation=torch_activation(activation, fields.file),
        residual=fields.take("use_residual", default=False, kind=bool),
    )
    fields.done()
    _check_width(config, width, fields.file)
    return HeadSource(config, path, dense_rules(config))


def _layer_norm(path: Path, width: int, ignore: Collection[str]) -> HeadSource:
    fields = _head_fields(path, ignore)
    size = fields.take_count("dimension")
    fields.done()
    config = HeadConfig(kind="layer_norm", in_features=size, out_features=size)
    _check_width(config, width, fields.file)
    return HeadSource(config, path, layer_norm_rules(config))


def _normalize(path: Path, width: int, ignore: Collection[str]) -> HeadSource:
    _head_fields(path, ignore, optional=True).done()
    return HeadSource(HeadConfig(kind="normalize", in_features=width, out_features=width))


_HEADS = {"Dense": _dense, "LayerNorm": _layer_norm, "Normalize": _normalize}


def _head_fields(path: Path, ignore: Collection[str], *, optional: bool = False) -> Fields:
    file = path / "config.json"
    fields = Fields(read_json_object(file, optional=optional), str(file), ignore)
    for name in ("module_input_name", "module_output_name"):
        fields.require(name, "sentence_embedding")
    return fields


def _check_width(config: HeadConfig, width: int, file: str) -> None:
    if config.in_features != width:
        raise ConversionError(f"{file}: takes {config.in_features} features but the step before gives {width}")


def _transformer_options(path: Path, task: tuple[str, str, str], ignore: Collection[str]) -> dict[str, Any]:
    """Return the options of the encoder's input in sentence_bert_config.json (or an equivalent file).

    ``task`` is the permitted description of the output, one of `TASKS`.
    """
    # Use the first file that is not empty, as sentence-transformers does.
    found = ((path / name, read_json_object(path / name, optional=True)) for name in TRANSFORMER_CONFIGS)
    file, content = next(((file, content) for file, content in found if content), (path, {}))
    fields = Fields(content, str(file), ignore)
    options = {
        "max_seq_length": fields.take_count("max_seq_length", None),
        "lower_case": fields.take("do_lower_case", default=False, kind=bool),
    }
    fields.require("transformer_task", task[0])
    fields.require("module_output_name", task[1])
    fields.require("modality_config", {"text": {"method": "forward", "method_output_name": task[2]}})
    # Each of these fields can change the vectors; empty ones are common.
    for name in ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"):
        fields.require(name, {})
    for name in ("processing_kwargs", "query_length", "document_length", "query_expansion"):
        fields.require(name, {})
    fields.harmless(["unpad_inputs"])
    fields.done()
    return options


def _model_options(directory: Path, model_type: str, ignore: Collection[str]) -> dict[str, Any]:
    """Return the options of the complete model in config_sentence_transformers.json."""
    file = directory / MODEL_CONFIG
    fields = Fields(read_json_object(file, optional=True), str(file), ignore)
    fields.harmless(["__version__", "requirements"])
    fields.require("model_type", model_type)
    activation = fields.take("activation_fn", None, str) if model_type == "CrossEncoder" else None
    prompts = fields.take("prompts", {}, dict)
    default = fields.take("default_prompt_name", None, str)
    similarity = fields.take("similarity_fn_name", "cosine", str)
    truncate_dim = fields.take_count("truncate_dim", None)
    fields.done()
    for name, prompt in prompts.items():
        if prompt is not None and (not isinstance(prompt, str) or lone_surrogate(prompt) is not None):
            raise ConversionError(f"{file}: prompt {name!r} is not text")
    prompts = merged(prompts, {})  # null is an empty prompt
    if default is not None and default not in (*prompts, *(ALWAYS if model_type == "SentenceTransformer" else ())):
        raise ConversionError(f"{file}: default_prompt_name {default!r} is not among the prompts")
    if similarity not in get_args(Similarity):
        raise ConversionError(f"{file}: similarity {similarity!r} is unknown; known: {', '.join(get_args(Similarity))}")
    return {
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": similarity,
        "truncate_dim": truncate_dim,
        "activation": activation,
    }


def _score_activation(paths: Sequence[object], labels: int, file: str) -> Activation:
    """Return the activation of the logits: the first torch.nn path that is given; else Sigmoid for one label."""
    path = next((path for path in paths if path is not None), None)
    if path is None:
        return "sigmoid" if labels == 1 else "identity"
    return torch_activation(str(path), file)
