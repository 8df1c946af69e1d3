"""README.md of an exported model: its origin, and the temperature folded into its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import ModelCard, ModelCardData

from tsjax._version import __version__
from tsjax.temperature import Temperature

if TYPE_CHECKING:
    from tsjax.checkpoints.format import Metadata


def model_card(metadata: Metadata, tau: Temperature) -> ModelCard:
    """Return the card, with the front matter that the hub reads.

    Args:
        metadata: metadata of the exported checkpoint.
        tau: temperature folded into its weights.
    """
    embedder = metadata.kind == "embedder"
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.source) and not Path(metadata.source).exists()
    front = ModelCardData(
        base_model=metadata.source if on_hub else None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity" if embedder else "text-ranking",
        tags=["sentence-transformers", "tsjax", *([] if tau == Temperature() else ["tempscale"])],
    )
    kind = "SentenceTransformer" if embedder else "CrossEncoder"
    load = f'from sentence_transformers import {kind}\n\nmodel = {kind}("path/to/this/directory")'
    origin = f"`{metadata.source}`" if metadata.source else "a checkpoint of tsjax"
    sections = [
        f"---\n{front}\n---",
        f"# {metadata.source.rstrip('/').rpartition('/')[2] or 'A model'}, exported by tsjax {__version__}",
        f"The weights are those of {origin}, in float32. Its licence holds for them too.",
        "## Temperature\n\n" + _temperature(metadata, tau),
        f"## Use\n\n```python\n{load}\n```",
    ]
    return ModelCard("\n\n".join(sections) + "\n")


def _temperature(metadata: Metadata, tau: Temperature) -> str:
    if tau == Temperature():
        return "None was folded in."
    encoder = metadata.model.encoder
    where = "the scale of the norm on queries" if encoder.query_key_norm else "attention's query projection"
    if encoder.relative_buckets is not None:
        where += " and the relative position bias"
    said = (
        f"Every attention softmax has the temperature τ = {tau}: {where} took it up, so that any engine computes "
        "softmax(logits / τ) without knowing of it.\n\n"
        "Below 1 it sharpens attention, which counteracts the collapse of long texts' embeddings (TempScale, "
        "arXiv:2410.24200). What this model computes and what the original does are not to be mixed."
    )
    value = np.asarray(tau.value)
    if value.ndim == 0:
        return said
    rows = value[:, None] if value.ndim == 1 else value
    header = ["layer", *(["τ"] if value.ndim == 1 else [f"head {head}" for head in range(rows.shape[1])])]
    lines = [header, ["---"] * len(header), *([str(i), *(f"{x:.4g}" for x in row)] for i, row in enumerate(rows))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{said}\n\n{table}\n\nExactly: `{json.dumps(tau.to_json()['value'])}`"
