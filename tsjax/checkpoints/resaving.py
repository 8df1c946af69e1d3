"""Rewriting of a tsjax checkpoint with the same weights and tokenizer and different metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsjax.checkpoints.format import read_tokenizer, read_weights
from tsjax.model.forward import weight_shapes

if TYPE_CHECKING:
    from tsjax.checkpoints.format import FlatWeights, Header, Metadata


def with_metadata(header: Header, metadata: Metadata) -> tuple[Metadata, FlatWeights, str]:
    """Return the arguments of `tsjax.checkpoints.format.save` after the directory.

    Args:
        header: header of the checkpoint whose weights and tokenizer to read.
        metadata: the new metadata.

    Raises:
        CheckpointError: the checkpoint was removed or damaged.
    """
    return metadata, read_weights(header, weight_shapes(metadata.model)), read_tokenizer(header)
