"""Comparison of tsjax with the original in PyTorch, for one checkpoint or for every family that tsjax supports.

    python -m scripts.verify.parity BAAI/bge-base-en-v1.5 --temperature 1,0.8
    python -m scripts.verify.parity --all

It prints the greatest differences. The exit status is 1 if one exceeds its tolerance, 2 for an error. It requires torch
and sentence-transformers (from a checkout: pip install -e '.[test]').
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    import torch
    import transformers
    from sentence_transformers import CrossEncoder, SentenceTransformer
except ImportError as error:
    sys.exit(
        f"verify_parity.py needs {error.name}; from a checkout: pip install torch==2.13.0 && pip install -e '.[test]'"
    )

import tsjax
from conversion.convert import convert
from conversion.originals import hidden_states, tempered
from scripts.verify.readme_table import write_table
from tsjax.checkpoints.format import is_checkpoint, read_header, read_network_weights
from tsjax.hub import locate
from tsjax.jobs.input.texts import read_texts
from tsjax.model.forward import apply, weight_shapes
from tsjax.model.params import cast_params, unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PARITY = ROOT / "tsjax" / "parity.json"

# Tolerances of hidden states relative to their greatest value, of normalised vectors, of logits, and of the cosine of
# bfloat16 to float32.
STATES, VECTORS, LOGITS, COSINE = 2e-6, 1e-6, 1e-5, 0.999
TEMPERATURES = (1.0, 0.8, 0.5)
LENGTHS = np.array([80, 3, 41, 17])

SAMPLE = [
    "How tall is the Eiffel tower?",
    "It is 330 metres high, about as tall as an 81-storey building, and the tallest structure in Paris.",
    "Attention weights are the softmax of logits divided by a temperature.",
    "",
    "naïve café — 東京 🗼",
    *(
        " ".join(f"Sentence number {i} of a longer text says that {i * i} is a square." for i in range(n))
        for n in (5, 40)
    ),
]


def main() -> int:
    """Parse the command line, compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*", help="hub name or directory of an original checkpoint")
    parser.add_argument("--all", action="store_true", help="a small random model of every family")
    parser.add_argument("--write", action="store_true", help="with --all: record the figures, and the README's table")
    parser.add_argument("--texts", metavar="FILE", help="texts in any format that tsjax embed reads (default: a few)")
    parser.add_argument("--temperature", metavar="τ,…", default="1,0.8,0.5", help="default: 1,0.8,0.5")
    parser.add_argument("--adapter", metavar="NAME", help="merge this task adapter of the model on our side")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the original's own code, if it has any")
    options = parser.parse_args()
    if not options.models and not options.all:
        parser.error("name a MODEL, or say --all")
    warnings.simplefilter("ignore", tsjax.TruncationWarning)
    try:
        texts = list(read_texts(options.texts)) if options.texts else SAMPLE
    except tsjax.InputError as error:
        parser.error(str(error))
    good = True
    try:
        taus = [float(tau) for tau in options.temperature.split(",")]
        for tau in taus:
            tsjax.Temperature(tau)  # raises for an invalid value
        for model in options.models:
            good &= check_model(model, texts, taus, options)
        if options.all:
            good &= check_families(write=options.write)
    except (tsjax.TsjaxError, OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    print("within the tolerances" if good else "NOT within the tolerances", file=sys.stderr)
    return 0 if good else 1


def check_model(name: str, texts: list[str], taus: list[float], options: argparse.Namespace) -> bool:
    """Compare one checkpoint on texts, and return whether it is within the tolerances."""
    directory = locate(name)
    if is_checkpoint(directory):
        raise tsjax.InputError(f"{name} is a checkpoint of tsjax; name the original that it was converted from")
    ours = tsjax.load(name, adapter=options.adapter)
    settings: dict[str, Any] = {
        "device": "cpu",
        "model_kwargs": {"attn_implementation": "eager", "dtype": torch.float32},
        "trust_remote_code": options.trust_remote_code,
    }
    good = True
    print(f"{name}: {ours!r}")
    if isinstance(ours, tsjax.CrossEncoder):
        scorer = CrossEncoder(str(directory), **settings)
        scorer.max_seq_length = ours.max_seq_length
        pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
        for tau in taus:
            with tempered(tau):
                expected = scorer.predict(pairs, activation_fn=torch.nn.Identity())
            logits = ours.predict(pairs, activation_fn="identity", temperature=tau)
            difference = float(np.abs(logits - expected).max())
            good &= difference <= LOGITS
            print(f"  τ = {tau:<4g} logits {difference:.1e} (tolerance {LOGITS:.0e})")
        return good
    original = SentenceTransformer(str(directory), **settings)
    original.max_seq_length = ours.max_seq_length
    for tau in taus:
        with tempered(tau) as softmaxes:
            expected = original.encode(texts, normalize_embeddings=True)
        assert softmaxes, "the original's attention does not go through PyTorch's softmax, so τ did not reach it"
        vectors = ours.encode(texts, normalize_embeddings=True, temperature=tau)
        difference = float(np.abs(vectors - expected).max())
        cosine = float((vectors * expected).sum(-1).min())
        good &= difference <= VECTORS
        print(
            f"  τ = {tau:<4g} normalised vectors {difference:.1e} (tolerance {VECTORS:.0e}), worst cosine {cosine:.7f}"
        )
    return good


def check_families(*, write: bool) -> bool:
    """Compare a small random model of every family, print a table, and return whether all are within the tolerances."""
    from tests.support.rows import ROWS  # noqa: PLC0415  # only a checkout has it

    figures: list[dict[str, Any]] = []
    for row in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            original = row.make(path / "theirs")
            convert(path / "theirs", path / "ours", **row.options)
            figure = {"family": row.name, "example": row.example, **measure(original, path / "ours"), "logits": None}
            if row.scorer is not None:
                row.scorer(path / "scorer")
                convert(path / "scorer", path / "ours too")
                figure["logits"] = measure_logits(path / "scorer", path / "ours too")
            figures.append(figure)
    lines = list(table(figures))
    print("\n".join(lines))
    if write:
        content = {
            "measured": datetime.date.today().isoformat(),
            "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
            "families": figures,
        }
        PARITY.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_table("families", lines)
    return all(
        max(one["states"].values()) <= STATES
        and max(one["vectors"].values()) <= VECTORS
        and one["bfloat16"] >= COSINE
        and max((one["logits"] or {"": 0.0}).values()) <= LOGITS
        for one in figures
    )


def measure(original: Any, converted: Path) -> dict[str, Any]:
    """Return the greatest differences by temperature, and the worst cosine of bfloat16 to float32."""
    header = read_header(converted)
    model, encoder = header.metadata.model, header.metadata.model.encoder
    params = jax.device_put(unflatten(read_network_weights(header, weight_shapes(model))))
    ids = np.random.default_rng(1).integers(0, encoder.vocab_size, (len(LENGTHS), LENGTHS.max()))
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]

    def states_of(tau: float, dtype: str = "float32") -> np.ndarray:
        temperature = jnp.full((encoder.num_layers, 1, encoder.num_heads), tau, jnp.float32)
        cast = cast_params(model, params, jnp.dtype(dtype))
        return np.asarray(apply(model, cast, jnp.asarray(ids), jnp.asarray(LENGTHS), temperature).tokens, np.float64)

    def vectors_of(states: np.ndarray) -> np.ndarray:
        means = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        return means / np.linalg.norm(means, axis=-1, keepdims=True)

    states, vectors = {}, {}
    for tau in TEMPERATURES:
        expected, _ = hidden_states(original, ids, LENGTHS.tolist(), tau)
        mine = states_of(tau)
        states[f"{tau:g}"] = float(np.abs(mine - expected)[mask].max() / np.abs(expected[mask]).max())
        vectors[f"{tau:g}"] = float(np.abs(vectors_of(mine) - vectors_of(expected)).max())
    half = min(
        float((vectors_of(states_of(tau, "bfloat16")) * vectors_of(states_of(tau))).sum(-1).min())
        for tau in TEMPERATURES
    )
    return {"states": states, "vectors": vectors, "bfloat16": half}


def measure_logits(original: Path, converted: Path) -> dict[str, float]:
    """Return the greatest differences of a cross-encoder's logits by temperature."""
    theirs = CrossEncoder(str(original), device="cpu", model_kwargs={"attn_implementation": "eager"})
    ours = tsjax.load(converted, kind="cross_encoder")
    ours.max_seq_length = theirs.max_seq_length = 80
    pairs = [
        ("the cat", "of it"),
        ("", "was"),
        ("what he had to be", "by all of this, not but for one of these"),
        ("a", ""),
    ]
    differences = {}
    for tau in TEMPERATURES:
        with tempered(tau):
            expected = theirs.predict(pairs, activation_fn=torch.nn.Identity())
        logits = ours.predict(pairs, activation_fn="identity", temperature=tau)
        differences[f"{tau:g}"] = float(np.abs(logits - expected).max())
    return differences


def table(figures: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the figures as a table in Markdown, the worst of the temperatures in each column."""
    yield "| family | for example | hidden states | vectors | logits | bfloat16 |"
    yield "|---|---|---|---|---|---|"
    for one in figures:
        states, vectors = max(one["states"].values()), max(one["vectors"].values())
        logits = f"{max(one['logits'].values()):.1e}" if one["logits"] else ""
        yield (
            f"| {one['family']} | {one['example']} | {states:.1e} | {vectors:.1e} | {logits} | {one['bfloat16']:.5f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
