"""Selection of the prompt that is put before the input, by the rules of sentence-transformers 6.2.

A model has prompts by name. In sentence-transformers, those named ``query`` and ``document`` always exist, as empty
texts if the model has none, so that a model's prompt ``passage`` or its default prompt does not take their place.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Task: TypeAlias = Literal["query", "document"]

# Prompts that every embedder has, and the prompt names that each of its methods looks for; the first match counts.
ALWAYS = ("query", "document")
_NAMES: dict[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}

logger = logging.getLogger("tsjax")


def merged(
    saved: Mapping[str, str | None], given: Mapping[str, str | None], always: Iterable[str] = ()
) -> dict[str, str]:
    """Return the prompts of a model, in the order and with the precedence of sentence-transformers.

    Args:
        saved: prompts of the checkpoint.
        given: prompts of the user, which take precedence; a value of None counts as not given.
        always: names that always exist, as empty texts if no prompt is given.
    """
    prompts = {**dict.fromkeys(always), **given}
    for name, prompt in saved.items():
        if prompts.get(name) is None:
            prompts[name] = prompt
    return {name: "" if prompt is None else prompt for name, prompt in prompts.items()}


def name_for(task: str, prompts: Mapping[str, str]) -> str | None:
    """Return the first prompt name for a task that exists; None for the default prompt."""
    return next((name for name in _NAMES[task] if name in prompts), None)


def hidden(prompts: Mapping[str, str], default: str | None) -> tuple[str, ...]:
    """Return the names of prompts that `encode_query` or `encode_document` would use if their own were not empty."""
    found = []
    for task, names in _NAMES.items():
        name = name_for(task, prompts)
        if name is not None and not prompts[name]:
            found += [other for other in (*names[1:], default) if other is not None and prompts.get(other)]
    return tuple(dict.fromkeys(found))


def unused(prompts: Mapping[str, str], default: str | None) -> tuple[str, ...]:
    """Return the names of prompts that are used only if a call names them."""
    used = {default, *(name_for(task, prompts) for task in _NAMES)}
    return tuple(name for name, prompt in prompts.items() if prompt and name not in used)


@lru_cache(maxsize=256)
def say_hidden(source: str, names: tuple[str, ...]) -> None:
    """Log, once per model, that an empty prompt keeps these prompts from being used."""
    if names:
        logger.warning(
            "%s: encode_query and encode_document do not put the prompt %s before a text, as in sentence-transformers, "
            "since their own prompts are empty; ask for it with prompt_name=%r (--prompt-name %s)",
            source,
            " or ".join(map(repr, names)),
            names[0],
            names[0],
        )
