"""Rules that define, as data, the tsjax name and axis layout of each PyTorch weight.

There is one rule for each weight, or for each part of a packed weight. ``{i}`` in a name stands for the layer. Expanded
for a number of layers, the rules are a finite table, so completeness is an equality of sets that is checked before a
tensor is read. A layout is an einops string, so export uses the same string with its sides swapped. The engine stacks
the layers; the rules do not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import einops
import numpy as np

from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rule:
    """One weight: its name in PyTorch, its name in tsjax, and the layout that turns the first into the second.

    Attributes:
        torch: for instance ``encoder.layer.{i}.attention.self.query.weight``.
        ours: for instance ``layers.{i}.attention.query.kernel``.
        layout: for instance ``(n h) d -> d n h``; empty where the axes do not change.
        part: where PyTorch packs several tsjax weights along its first axis, the index of this one and the number of
            equal parts.
        first_layer: the first layer that has this weight; in tsjax, earlier layers get ones, which are never read.
    """

    torch: str
    ours: str
    layout: str = ""
    part: tuple[int, int] = (0, 1)
    first_layer: int = 0

    def for_layers(self, num_layers: int) -> list[Row]:
        """Return the rows that this rule stands for."""
        if "{i}" not in self.torch:
            return [Row(self.torch, self.ours, None, self.layout, self.part)]
        stacked = self.ours.replace("{i}.", "")
        return [
            Row(self.torch.replace("{i}", str(i)), stacked, i, self.layout, self.part)
            for i in range(self.first_layer, num_layers)
        ]


@dataclass(frozen=True)
class Row:
    """One PyTorch tensor, or a part of it, and its target: a tsjax weight, or one layer of a stacked weight."""

    torch: str
    ours: str
    layer: int | None
    layout: str
    part: tuple[int, int]


@dataclass(frozen=True)
class Names:
    """The differences between the names in a file and the names in the rules.

    Attributes:
        prefixes: leading words that are removed, for instance ``bert.``.
        renames: endings of old names and their replacements, for instance ``.gamma`` and ``.weight``.
        ignored: patterns of weights that are excluded where no rule uses them, for instance ``cls.*``.
        copies: names under which some files hold a weight a second time, and the name that the rules use; where only
            the copy exists, it is used.
    """

    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, name: str) -> str:
        """Return the name that the rules use."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        for old, new in self.renames:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name

    def ignores(self, canonical: str) -> bool:
        """Return whether a weight of this canonical name is excluded where no rule uses it."""
        return any(fnmatchcase(canonical, pattern) for pattern in self.ignored)


def expand(rules: Iterable[Rule], num_layers: int) -> dict[str, list[Row]]:
    """Return the table of rows by PyTorch name; a packed weight has several rows.

    Raises:
        AssertionError: two rules claim one name, on either side, or parts are missing; this is a mistake in a family
            file.
    """
    rows = [row for rule in rules for row in rule.for_layers(num_layers)]
    table: dict[str, list[Row]] = {}
    for row in rows:
        table.setdefault(row.torch, []).append(row)
    for packed in table.values():
        packed.sort(key=lambda row: row.part)
        wanted = [(index, len(packed)) for index in range(len(packed))]
        assert [row.part for row in packed] == wanted, f"rules take {packed[0].torch} twice, or not all of it"
    assert len({(row.ours, row.layer) for row in rows}) == len(rows), "two rules give the same weight of ours"
    return table


def match(available: Iterable[str], table: Mapping[str, list[Row]], names: Names, where: str) -> dict[str, list[Row]]:
    """Match the names in a file with the rows of the table, strictly: nothing may be left over on either side.

    Returns:
        the rows for each name in the file that is used.

    Raises:
        ConversionError: a weight has no rule, a rule has no weight, or two names mean the same weight.
    """
    canonical = {name: names.canonical(name) for name in sorted(available)}
    known = set(canonical.values())
    found: dict[str, str] = {}
    for name, written in canonical.items():
        if names.copies.get(written) in known:
            continue
        meant = names.copies.get(written, written)
        if meant not in table:
            if names.ignores(meant):
                continue
            raise ConversionError(f"{where}: no rule for weight {name!r}; it is not part of this architecture")
        if meant in found:
            raise ConversionError(f"{where}: {found[meant]!r} and {name!r} are the same weight")
        found[meant] = name
    missing = [torch for torch in table if torch not in found]
    if missing:
        raise ConversionError(f"{where}: weight {missing[0]!r} is missing ({len(missing)} in all)")
    return {name: table[meant] for meant, name in found.items()}


def check_copies(read: Mapping[str, Callable[[], NDArray[Any]]], names: Names, where: str) -> None:
    """Check that duplicate weights in a file are equal, because it cannot be known which of two is correct.

    Raises:
        ConversionError: names the two weights.
    """
    by_name = {names.canonical(name): name for name in read}
    for copy, original in names.copies.items():
        if copy in by_name and original in by_name:
            first, second = by_name[original], by_name[copy]
            if not np.array_equal(read[first](), read[second]()):
                raise ConversionError(f"{where}: {first!r} and {second!r} should be the same weight, but differ")


def apply(
    rows: Mapping[str, list[Row]],
    read: Callable[[str], NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, int],
    where: str,
) -> dict[str, NDArray[np.float32]]:
    """Read each tensor, unpack it, lay out its axes, stack the layers.

    Args:
        rows: from `match`.
        read: returns a tensor by its name in the file.
        shapes: the shape of each tsjax weight, stacked.
        axes: sizes of the axes that a layout splits, for instance ``{"n": heads}``.
        where: the file, for messages.

    Raises:
        ConversionError: a tensor is not floating point, not finite, or has the wrong shape; or rules and architecture
            do not name the same weights.
    """
    if difference := {row.ours for packed in rows.values() for row in packed} ^ set(shapes):
        raise ConversionError(f"{where}: weight {min(difference)!r} of the architecture and the rules do not agree")
    weights: dict[str, NDArray[np.float32]] = {}
    for name, packed in rows.items():
        tensor = read(name)
        check_floats(tensor, name, where)
        parts = [shape_before(row.layout, _of_layer(row, shapes[row.ours])) for row in packed]
        expected = (sum(part[0] for part in parts), *parts[0][1:]) if parts[0] else ()
        if tensor.shape != expected:
            raise ConversionError(f"{where}: weight {name!r} has shape {tensor.shape}; the config asks for {expected}")
        tensor = tensor.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise ConversionError(f"{where}: weight {name!r} holds NaN or infinity")
        for row, part in zip(packed, np.split(tensor, len(packed)) if len(packed) > 1 else [tensor], strict=True):
            if row.ours not in weights:
                weights[row.ours] = np.ones(shapes[row.ours], np.float32)
            weights[row.ours][... if row.layer is None else row.layer] = rearrange(part, row.layout, axes)
    return weights


def check_floats(tensor: NDArray[Any], name: str, where: str) -> None:
    """Check that a weight is floating point.

    Raises:
        ConversionError: the weight is not floating point.
    """
    if tensor.dtype.kind != "f" and not tensor.dtype.name.startswith("bfloat"):
        raise ConversionError(f"{where}: weight {name!r} has dtype {tensor.dtype}, not floating point")


def as_float32(tensor: NDArray[Any], name: str, where: str) -> NDArray[np.float32]:
    """Return a weight in float32; the arguments and the error are those of `check_floats`."""
    check_floats(tensor, name, where)
    return tensor.astype(np.float32)


def invert(
    rules: Sequence[Rule],
    num_layers: int,
    weights: Mapping[str, NDArray[np.float32]],
    axes: Mapping[str, int],
) -> dict[str, NDArray[np.float32]]:
    """Return stacked tsjax weights as PyTorch weights by canonical names: the exact inverse of `apply`."""
    theirs = {}
    for torch, packed in expand(rules, num_layers).items():
        parts = [
            rearrange(weights[row.ours][... if row.layer is None else row.layer], swapped(row.layout), axes)
            for row in packed
        ]
        theirs[torch] = np.ascontiguousarray(np.concatenate(parts) if len(parts) > 1 else parts[0])
    return theirs


def _of_layer(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if row.layer is None else shape[1:]


def swapped(layout: str) -> str:
    """Return the layout of the inverse conversion."""
    return " -> ".join(reversed(layout.split(" -> "))) if layout else ""


def rearrange(array: NDArray[Any], layout: str, axes: Mapping[str, int]) -> NDArray[Any]:
    """Rearrange an array's axes; ``axes`` may hold sizes that the layout does not need."""
    if not layout:
        return array
    needed = {name: size for name, size in axes.items() if name in layout.replace("(", " ").replace(")", " ").split()}
    result: NDArray[Any] = einops.rearrange(array, layout, **needed)
    return result


def shape_before(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a layout turns into ``shape``; only the left side of a layout may have groups."""
    if not layout:
        return shape
    left, right = layout.split(" -> ")
    sizes = dict(zip(right.split(), shape, strict=True))
    groups = re.findall(r"\(([^)]*)\)|(\w+)", left)
    return tuple(math.prod(sizes[axis] for axis in (group or single).split()) for group, single in groups)
