"""The families that can be converted: one file each, and this table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conversion.families.bert import BERT
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.families.family import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT,)}


def family_of(model_type: object, file: str) -> Family:
    """The family of a config.json's ``model_type``.

    Raises:
        ConversionError: there is none; lists those that there are.
    """
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise ConversionError(f"{file}: architecture {model_type!r} is not supported; tsjax converts {known}")
    return family
