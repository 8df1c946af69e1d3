"""Writer of modules.json and its configs, so that old and new versions pool alike: the inverse of reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from conversion.activations import ACTIVATIONS
from conversion.heads import dense_rules, layer_norm_rules
from conversion.rules import Rule
from conversion.sentence_transformers import POOLING_BOOLEANS, TASKS
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from tsjax.checkpoints.format import Metadata
    from tsjax.model.config import Activation, HeadConfig, PoolingConfig


class ModuleFile(NamedTuple):
    """A module's folder, its config, the rules of its weights, and the index of the head, if it is one."""

    folder: str
    config: dict[str, Any]
    rules: tuple[Rule, ...] = ()
    head: int | None = None


def modules(metadata: Metadata) -> tuple[list[ModuleFile], dict[str, Any]]:
    """Return the folders of the modules after the encoder, and the JSON files next to modules.json by name.

    Raises:
        ConversionError: a head's activation has no class in torch.nn.
    """
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    folders = []
    if metadata.kind == "embedder":
        folders.append(ModuleFile("1_Pooling", _pooling(metadata.model.pooling, metadata.model.encoder.hidden_size)))
        for index, head in enumerate(metadata.model.heads):
            kind, config, rules = _head(head)
            folders.append(ModuleFile(f"{index + 2}_{kind}", config, rules, index))
    for number, module in enumerate(folders, start=1):
        kind = module.folder.partition("_")[2]
        path = f"sentence_transformers.models.{kind}"
        listed.append({"idx": number, "name": str(number), "path": module.folder, "type": path})
    task, output, name = TASKS[metadata.kind]
    transformer: dict[str, Any] = {"max_seq_length": metadata.max_seq_length, "do_lower_case": False}
    if metadata.kind == "cross_encoder":
        transformer |= {
            "transformer_task": task,
            "modality_config": {"text": {"method": "forward", "method_output_name": name}},
            "module_output_name": output,
        }
    model: dict[str, Any] = {
        "prompts": dict(metadata.prompts),
        "default_prompt_name": metadata.default_prompt_name,
    }
    if metadata.kind == "embedder":
        model |= {"model_type": "SentenceTransformer", "similarity_fn_name": metadata.similarity_fn_name}
        if metadata.truncate_dim is not None:
            model["truncate_dim"] = metadata.truncate_dim
    else:
        model |= {"model_type": "CrossEncoder", "activation_fn": _activation(metadata.activation)}
    files = {
        "modules.json": listed,
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": model,
    }
    return folders, files


def _pooling(pooling: PoolingConfig, width: int) -> dict[str, Any]:
    """Return the pooling config in the old format, unless it cannot express the order of several modes.

    Every version reads the old format.

    """
    said = {name: mode in pooling.modes for name, mode in POOLING_BOOLEANS.items()}
    if tuple(mode for name, mode in POOLING_BOOLEANS.items() if said[name]) == pooling.modes:
        return {"word_embedding_dimension": width, **said, "include_prompt": pooling.include_prompt}
    return {
        "embedding_dimension": width,
        "pooling_mode": list(pooling.modes),
        "include_prompt": pooling.include_prompt,
    }


def _head(head: HeadConfig) -> tuple[str, dict[str, Any], tuple[Rule, ...]]:
    if head.kind == "normalize":
        return "Normalize", {}, ()
    if head.kind == "layer_norm":
        return "LayerNorm", {"dimension": head.out_features}, layer_norm_rules(head)
    config: dict[str, Any] = {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": head.use_bias,
        "activation_function": _activation(head.activation),
    }
    if head.residual:
        config["use_residual"] = True
    return "Dense", config, dense_rules(head)


def _activation(activation: Activation) -> str:
    name = next((name for name, ours in ACTIVATIONS.items() if ours == activation), None)
    if name is None:
        raise ConversionError(f"torch.nn has no class for the activation {activation}, so it cannot be exported")
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"
