"""Task adapters (LoRA, arXiv:2106.09685), merged into the weights as they are read: W + s · B · A, in float32.

Checkpoints hold them in two ways. Jina v3's authors put those of all tasks beside each weight, as a parametrisation of
torch; PEFT has a folder for each task. What nobody chose is not read.
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

# PEFT's pairs of factors; in an embedding's, (r, rows) and (D, r), the product is the transpose of the table.
_PEFT_PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))

# Of PEFT's config: bookkeeping, training, and which modules were adapted, which the weights say themselves.
_PEFT_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform lora_dropout
    megatron_core peft_version qalora_group_size revision target_modules task_type
    """.split()
)

# And what would change the product, with the values under which it does not. Some ways to initialise the factors
# change the weights below them too.
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
    """What is added to one weight, or to a part of a packed one: scale · left · right.

    Attributes:
        part: of the weight's first axis, which of how many equal parts.
        left: reads (out, r); (rows, r) for an embedding.
        right: reads (r, in); (r, width) for an embedding.
        scale: α / r, or α / √r.
        rank: r, as the config has it.
        names: of the two factors, for messages.
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
    """The weights of a checkpoint with a task's adapter merged, or without any.

    Args:
        tensors: of the encoder.
        source: the checkpoint, where PEFT's folders are.
        config: the encoder's config.json, which says what the adapters beside the weights are.
        family: how weights may be named.
        encoder: what weights there are.
        task: which adapter to merge; None for the weights below the adapters.
        ignore: names of config fields that the user waves through.

    Raises:
        ConversionError: there is no such task, or an adapter is damaged or of a kind that is not known here.
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


# -- beside the weights, as published by Jina -------------------------------------------------------------------------


def _beside_weights(tensors: Tensors, config: Mapping[str, Any], task: str | None) -> Tensors:
    """``<weight>.original`` is W; ``<weight>.0.lora_A`` and ``.lora_B`` hold the factors of all tasks."""
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
                # A table is looked up, not multiplied with, so that its factors stand the other way round.
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
    """By the name of the weight in the encoder's file: what the adapter in a folder adds to it."""
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
    """Where in the encoder's file a weight is that an adapter names.

    An adapter has the names of transformers' modules. The file may have others: transformers writes a model's weights
    back as their authors named and packed them.
    """

    def __init__(self, tensors: Tensors, family: Family, encoder: EncoderConfig) -> None:
        spelling = family.spelling(tensors.read)
        self._files = {spelling.names.canonical(name): name for name in tensors.read}
        layers = encoder.num_layers
        # The pooler is kept for the way back, so an adapter of it is not lost.
        pooler = family.pooler_rules() if family.has_pooler(tensors.read, spelling) else ()

        def rules(of: Spelling) -> tuple[Rule, ...]:
            return (*of.rules(encoder), *pooler)

        self._places = {(row.ours, row.layer): row for rows in expand(rules(spelling), layers).values() for row in rows}
        self._native = family.spellings[0]
        self._rows = expand(rules(self._native), layers)

    def ignored(self, weight: str) -> bool:
        """Whether it is of a part of the model that the encoder does not use, such as the pooler."""
        name = self._native.names.canonical(weight)
        return name not in self._rows and self._native.names.ignores(name)

    def find(self, weight: str) -> tuple[str, tuple[int, int]] | None:
        """The name in the file, and which part of it; None if there is none."""
        rows = self._rows.get(self._native.names.canonical(weight), [])
        place = self._places.get((rows[0].ours, rows[0].layer)) if len(rows) == 1 else None
        if place is None or place.torch not in self._files or place.layout != rows[0].layout:
            return None
        return self._files[place.torch], place.part


def _transposed(read: Callable[[], NDArray[np.float32]]) -> Callable[[], NDArray[np.float32]]:
    return lambda: read().T


def _peft_scale(folder: Path, ignore: Collection[str]) -> tuple[int, float]:
    """The rank and the factor of the product: α / r, or α / √r with ``use_rslora`` (arXiv:2312.03732)."""
    file = folder / _ADAPTER_CONFIG
    fields = Fields(read_json_object(file), str(file), ignore)
    fields.harmless(_PEFT_HARMLESS)
    for name, allowed in _PEFT_REQUIRED.items():
        fields.require(name, *allowed)
    rank, alpha = fields.take_count("r"), fields.take("lora_alpha", kind=(int, float))
    stabilised = fields.take("use_rslora", default=False, kind=bool)
    fields.done()
    return rank, alpha / (math.sqrt(rank) if stabilised else rank)
