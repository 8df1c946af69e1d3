"""Task adapters (LoRA, arXiv:2106.09685), merged into the weights as they are read: W + s · B · A, in float32.

Checkpoints store them in two ways. Jina v3's authors store the adapters of all tasks next to each weight, as a torch
parametrisation. PEFT stores one folder per task. Adapters that are not selected are not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conversion.fields import Fields
from conversion.rules import as_float32, expand
from conversion.source import open_tensors, read_json_object
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from conversion.families.family import Family, Spelling
    from conversion.rules import Rule
    from conversion.source import Tensors
    from tsjax.model.config import EncoderConfig

_PARAMETRIZED = ".parametrizations.weight"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PEFT_PREFIX = "base_model.model."

# PEFT's pairs of factors. In an embedding's, (r, rows) and (D, r), the product is the transpose of the table.
_PEFT_PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))

# Ignored fields of PEFT's config: bookkeeping, training, and the adapted modules, which the weights name themselves.
_PEFT_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform lora_dropout
    megatron_core peft_version qalora_group_size revision target_modules task_type
    """.split()
)

# Fields that would change the product, with the values under which they do not. Some ways to initialise the factors
# also change the weights below them.
_PEFT_REQUIRED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False,),
    "bias": ("none",),
    "modules_to_save": ([],),
    "alora_invocation_tokens": (),
    "alpha_pattern": ({},),
    "arrow_config": (),
    "corda_config": (),
    "ensure_weight_tying": (False,),
    "eva_config": (),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian"),
    "layer_replication": (),
    "loftq_config": ({},),
    "lora_bias": (False,),
    "megatron_config": (),
    "rank_pattern": ({},),
    "target_parameters": ([],),
    "trainable_token_indices": (),
    "use_qalora": (False,),
}


@dataclass(frozen=True)
class _Update:
    """The update of one weight, or of a part of a packed weight: scale · left · right.

    Attributes:
        part: index of the part along the weight's first axis, and the number of equal parts.
        left: reads (out, r); (rows, r) for an embedding.
        right: reads (r, in); (r, width) for an embedding.
        scale: α / r, or α / √r.
        rank: r, as the config has it.
        names: names of the two factors, for messages.
    """

    part: tuple[int, int]
    left: Callable[[], NDArray[np.float32]]
    right: Callable[[], NDArray[np.float32]]
    scale: float
    rank: int
    names: str

    def add_to(self, whole: NDArray[np.float32], where: str) -> None:
        index, parts = self.part
        left, right = self.left(), self.right()
        size = whole.shape[0] // parts if whole.ndim else 0
        weight = whole[index * size : (index + 1) * size] if whole.ndim == 2 else whole
        if weight.ndim != 2 or (left.shape, right.shape) != (
            (weight.shape[0], self.rank),
            (self.rank, weight.shape[1]),
        ):
            raise ConversionError(
                f"{where}: {self.names} have shapes {left.shape} and {right.shape}, which do not make up a weight of "
                f"shape {weight.shape} with rank {self.rank}"
            )
        weight += left.dtype.type(self.scale) * (left @ right)


def with_task(
    tensors: Tensors,
    *,
    source: Path,
    config: Mapping[str, Any],
    family: Family,
    encoder: EncoderConfig,
    task: str | None,
    ignore: Collection[str] = (),
) -> Tensors:
    """Return the weights of a checkpoint, with a task's adapter merged or without any adapter.

    Args:
        tensors: the encoder's tensors.
        source: the checkpoint, which contains PEFT's folders.
        config: the encoder's config.json, which describes the adapters stored next to the weights.
        family: the family, which defines the possible names of weights.
        encoder: the architecture, which defines the set of weights.
        task: task whose adapter is merged; None for the weights below the adapters.
        ignore: names of config fields that the user chose to ignore.

    Raises:
        ConversionError: there is no such task, or an adapter is damaged or of an unknown kind.
    """
    if any(_PARAMETRIZED in name for name in tensors.read):
        return _beside_weights(tensors, config, task)
    if task is None:
        return tensors
    folders = {file.parent.name: file.parent for file in sorted(source.glob(f"*/{_ADAPTER_CONFIG}"))}
    spelled = (task, task.replace(".", "_").replace("-", "_"))
    folder = next((folders[name] for name in spelled if name in folders), None)
    if folder is None:
        raise _no_task(str(source), task, folders)
    return _merged(tensors, _peft_updates(tensors, folder, family, encoder, ignore))


def _no_task(where: str, task: str, known: Collection[str]) -> ConversionError:
    if not known:
        return ConversionError(f"{where} has no task adapters, so there is no adapter {task!r} to merge; leave it out")
    return ConversionError(f"{where} has no adapter {task!r}; its adapters are {', '.join(map(str, known))}")


def _merged(tensors: Tensors, updates: Mapping[str, list[_Update]]) -> Tensors:
    def merge(name: str) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            weight = as_float32(tensors.read[name](), name, tensors.where)  # a copy
            for update in updates[name]:
                update.add_to(weight, tensors.where)
            return weight

        return read

    return replace(tensors, read={**tensors.read, **{name: merge(name) for name in updates}})


def _reader(tensors: Tensors, name: str) -> Callable[[], NDArray[np.float32]]:
    return lambda: as_float32(tensors.read[name](), name, tensors.where)


# -- next to the weights, as published by Jina -------------------------------------------------------------------------


def _beside_weights(tensors: Tensors, config: Mapping[str, Any], task: str | None) -> Tensors:
    """Merge adapters that are stored next to the weights.

    ``<weight>.original`` is W; ``<weight>.0.lora_A`` and ``.lora_B`` hold the factors of all tasks.
    """
    fields = Fields(config, f"the config.json of {tensors.where}")
    tasks = fields.take("lora_adaptations", kind=list)
    rank, alpha = fields.take_count("lora_rank"), fields.take("lora_alpha", kind=(int, float))
    if task is not None and task not in tasks:
        raise _no_task(tensors.where, task, tasks)

    def factor(name: str, index: int) -> Callable[[], NDArray[np.float32]]:
        def read() -> NDArray[np.float32]:
            stacked = as_float32(tensors.read[name](), name, tensors.where)
            if stacked.ndim != 3 or stacked.shape[0] != len(tasks):
                raise ConversionError(
                    f"{tensors.where}: {name!r} has shape {stacked.shape}; for {len(tasks)} tasks it must have three "
                    f"axes, the first of them of {len(tasks)}"
                )
            one: NDArray[np.float32] = stacked[index]
            return one

        return read

    plain = {name: read for name, read in tensors.read.items() if _PARAMETRIZED not in name}
    updates: dict[str, list[_Update]] = {}
    for name in sorted(set(tensors.read) - set(plain)):
        module = name.partition(_PARAMETRIZED)[0]
        a, b = (f"{module}{_PARAMETRIZED}.0.lora_{letter}" for letter in "AB")
        original = f"{module}{_PARAMETRIZED}.original"
        if missing := {original, a, b} - set(tensors.read):
            raise ConversionError(f"{tensors.where}: weight {min(missing)!r} is missing, which belongs to {name!r}")
        if name not in (original, a, b):
            raise ConversionError(f"{tensors.where}: weight {name!r} is of a parametrisation that is not known here")
        if f"{module}.weight" in tensors.read:
            raise ConversionError(f"{tensors.where}: {module + '.weight'!r} and {original!r} are the same weight")
        if name == original:
            plain[f"{module}.weight"] = tensors.read[original]
            if task is not None:
                # A table is indexed and not multiplied, so its factors are transposed.
                left, right = (a, b) if module.endswith("_embeddings") else (b, a)
                index = tasks.index(task)
                factors = factor(left, index), factor(right, index)
                update = _Update((0, 1), *factors, alpha / rank, rank, f"{left!r} and {right!r}")
                updates[f"{module}.weight"] = [update]
    return _merged(replace(tensors, read=plain), updates)


# -- in folders, as PEFT writes them ----------------------------------------------------------------------------------


def _peft_updates(
    tensors: Tensors, folder: Path, family: Family, encoder: EncoderConfig, ignore: Collection[str]
) -> dict[str, list[_Update]]:
    """Return the updates in an adapter's folder, by the name of the weight in the encoder's file."""
    rank, scale = _peft_scale(folder, ignore)
    adapter = open_tensors(folder, _ADAPTER_FILES)
    targets = _Targets(tensors, family, encoder)
    updates: dict[str, list[_Update]] = {}
    left = set(adapter.read)
    for first, second in _PEFT_PAIRS:
        for a in sorted(name for name in adapter.read if name.endswith(first)):
            b = a.removesuffix(first) + second
            if b not in adapter.read:
                raise ConversionError(f"{adapter.where}: weight {b!r} is missing, which belongs to {a!r}")
            left -= {a, b}
            weight = f"{a.removesuffix(first).removeprefix(_PEFT_PREFIX)}.weight"
            if targets.ignored(weight):
                continue
            found = targets.find(weight)
            if found is None:
                raise ConversionError(f"{adapter.where}: {a!r} adapts {weight!r}, which {tensors.where} does not have")
            readers = _reader(adapter, b), _reader(adapter, a)
            if first == _PEFT_PAIRS[1][0]:
                readers = _transposed(readers[1]), _transposed(readers[0])
            name, part = found
            updates.setdefault(name, []).append(
                _Update(part, *readers, scale, rank, f"{a!r} and {b!r} of {adapter.where}")
            )
    if left:
        raise ConversionError(f"{adapter.where}: {min(left)!r} is no part of a LoRA adapter that is known here")
    if not updates:
        raise ConversionError(f"{adapter.where} adapts no weight of the encoder")
    return updates


class _Targets:
    """The mapping from the weight names of an adapter to the weights in the encoder's file.

    An adapter has the names of transformers' modules. The file may have other names: transformers writes a model's
    weights back as their authors named and packed them.
    """

    def __init__(self, tensors: Tensors, family: Family, encoder: EncoderConfig) -> None:
        spelling = family.spelling(tensors.read)
        self._files = {spelling.names.canonical(name): name for name in tensors.read}
        layers = encoder.num_layers
        # The pooler is kept for export, so an adapter of it is not lost.
        pooler = family.pooler_rules() if family.has_pooler(tensors.read, spelling) else ()

        def rules(of: Spelling) -> tuple[Rule, ...]:
            return (*of.rules(encoder), *pooler)

        self._places = {(row.ours, row.layer): row for rows in expand(rules(spelling), layers).values() for row in rows}
        self._native = family.spellings[0]
        self._rows = expand(rules(self._native), layers)

    def ignored(self, weight: str) -> bool:
        """Return whether a weight belongs to a part of the model that the encoder does not use, such as the pooler."""
        name = self._native.names.canonical(weight)
        return name not in self._rows and self._native.names.ignores(name)

    def find(self, weight: str) -> tuple[str, tuple[int, int]] | None:
        """Return the name in the file and the part of that weight; None if the weight is not found."""
        rows = self._rows.get(self._native.names.canonical(weight), [])
        place = self._places.get((rows[0].ours, rows[0].layer)) if len(rows) == 1 else None
        if place is None or place.torch not in self._files or place.layout != rows[0].layout:
            return None
        return self._files[place.torch], place.part


def _transposed(read: Callable[[], NDArray[np.float32]]) -> Callable[[], NDArray[np.float32]]:
    return lambda: read().T


def _peft_scale(folder: Path, ignore: Collection[str]) -> tuple[int, float]:
    """Return the rank and the factor of the product: α / r, or α / √r with ``use_rslora`` (arXiv:2312.03732)."""
    file = folder / _ADAPTER_CONFIG
    fields = Fields(read_json_object(file), str(file), ignore)
    fields.harmless(_PEFT_HARMLESS)
    for name, allowed in _PEFT_REQUIRED.items():
        fields.require(name, *allowed)
    rank, alpha = fields.take_count("r"), fields.take("lora_alpha", kind=(int, float))
    stabilised = fields.take("use_rslora", default=False, kind=bool)
    fields.done()
    return rank, alpha / (math.sqrt(rank) if stabilised else rank)
