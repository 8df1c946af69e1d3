"""The original model in PyTorch, with a temperature: the reference for tsjax, in the tests and for users.

The temperature divides the complete logit, biases and masks included, as in the paper's own code. It is applied in
PyTorch's softmax, which every architecture uses, so that no family can skip it unnoticed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, MT5EncoderModel, T5EncoderModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@contextlib.contextmanager
def tempered(temperature: float) -> Iterator[list[int]]:
    """Divide the logits of every softmax by τ, and yield a list of the calls' sizes.

    This requires eager attention, which calls `torch.nn.functional.softmax`. Masked logits stay finite, so that a query
    that sees no key does not give NaN.
    """
    plain = torch.nn.functional.softmax
    calls: list[int] = []

    def softmax(logits: torch.Tensor, *positional: Any, **options: Any) -> torch.Tensor:
        calls.append(logits.shape[-1])
        divided = (logits / temperature).clamp(min=torch.finfo(logits.dtype).min)
        return plain(divided, *positional, **options)

    torch.nn.functional.softmax = softmax
    try:
        yield calls
    finally:
        torch.nn.functional.softmax = plain


def load_original(directory: Path | str, dtype: torch.dtype = torch.float32) -> Any:
    """Load the bare encoder in PyTorch, as transformers reads it, with eager attention."""
    # AutoModel would also build T5's decoder.
    encoders: dict[str, Any] = {"t5": T5EncoderModel, "mt5": MT5EncoderModel}
    kind = encoders.get(AutoConfig.from_pretrained(directory).model_type, AutoModel)
    return kind.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def hidden_states(
    model: Any,
    input_ids: NDArray[np.integer[Any]],
    lengths: Sequence[int],
    temperature: float = 1.0,
    token_type_ids: NDArray[np.integer[Any]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the hidden states of the last layer, float64 (B, T, D), and the mask of the tokens that are not padding.

    Raises:
        AssertionError: the temperature did not reach every layer.
    """
    ids = torch.tensor(np.asarray(input_ids), dtype=torch.long)
    mask = torch.arange(ids.shape[1])[None, :] < torch.tensor(np.asarray(lengths))[:, None]
    types = {} if token_type_ids is None else {"token_type_ids": torch.tensor(np.asarray(token_type_ids)).long()}
    with torch.no_grad(), tempered(temperature) as calls:
        states = model(input_ids=ids, attention_mask=mask.long(), **types).last_hidden_state
    config = model.config.to_dict()
    layers = config.get("num_hidden_layers", config.get("n_layers", config.get("num_layers")))
    assert len(calls) == layers, f"{len(calls)} softmaxes in {layers} layers"
    return states.double().numpy(), mask.numpy()
