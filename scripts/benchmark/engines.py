"""The engines that scripts/benchmark/run.py compares, each run in its own process.

    python -m scripts.benchmark.engines ENGINE FOLDER DEVICE

FOLDER was made by scripts/benchmark/models.py. DEVICE is cpu or gpu.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scripts.benchmark.worker import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The maximum length in tokens, for every engine.
LONGEST = 512

# On a CPU, sentence-transformers' default batch size, also for ONNX Runtime; larger batches on a GPU.
BATCH = {"cpu": 32, "gpu": 256}


class Tsjax:
    """tsjax: in float32 on a CPU and bfloat16 on a GPU."""

    def __init__(self, folder: Path, device: str) -> None:
        import tsjax  # noqa: PLC0415  # each process imports only its own engine

        self._dtype: Literal["float32", "bfloat16"] = "float32" if device == "cpu" else "bfloat16"
        self._embedder = tsjax.load(folder / "tsjax", kind="embedder", dtype=self._dtype, max_seq_length=LONGEST)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._embedder.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    def network(self, ids: np.ndarray) -> Callable[[], object]:
        from tsjax.text.tokenizer import Tokenized  # noqa: PLC0415

        rows, tokens = ids.shape
        batch = Tokenized(list(ids), np.full(rows, tokens, np.int32), np.zeros(rows, np.bool_))
        embedder = self._embedder
        return lambda: list(embedder.pipeline.compute([batch], embedder.temperature))

    def warm(self, run: Callable[[], object]) -> dict[str, Any]:
        """Run once without previously compiled programs, so that the compilations of a workload can be measured."""
        import jax  # noqa: PLC0415

        from tsjax.bench.benchmark import compile_clock  # noqa: PLC0415

        jax.clear_caches()
        before = self._embedder.statistics
        with compile_clock() as clock:
            run()
        after = self._embedder.statistics
        computed, tokens = after.computed_tokens - before.computed_tokens, after.tokens - before.tokens
        return {
            "padding_share": 1 - tokens / computed,
            "compiled_shapes": after.compilations - before.compilations,
            "compile_seconds": clock.seconds,
        }

    def matrix_rate(self, width: int, wide: int, tokens: int) -> float:
        from tsjax.bench.operations import matrix_rate  # noqa: PLC0415

        del width, wide  # the engine reads them from the model
        return matrix_rate(self._embedder.metadata.model, self._dtype, tokens)

    def about(self) -> dict[str, Any]:
        import jax  # noqa: PLC0415

        import tsjax  # noqa: PLC0415

        return {
            "versions": {"tsjax": tsjax.__version__, "jax": jax.__version__},
            "dtype": self._dtype,
            "device": jax.devices()[0].device_kind,
            "token_budget": self._embedder.token_budget,
        }


class SentenceTransformers:
    """PyTorch: in float32 with SDPA on a CPU; in bfloat16 with flash-attention, if installed, or SDPA on a GPU."""

    def __init__(self, folder: Path, device: str) -> None:
        import importlib.util  # noqa: PLC0415

        import torch  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        self._torch, self._batch = torch, BATCH[device]
        self._device = "cpu" if device == "cpu" else "cuda"
        flash = device == "gpu" and importlib.util.find_spec("flash_attn") is not None
        self._options = {
            "attn_implementation": "flash_attention_2" if flash else "sdpa",
            "dtype": torch.float32 if device == "cpu" else torch.bfloat16,
        }
        self._model = SentenceTransformer(
            str(folder / "original"), device=self._device, model_kwargs=self._options, local_files_only=True
        )
        self._model.max_seq_length = LONGEST

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)

    def network(self, ids: np.ndarray) -> Callable[[], object]:
        torch = self._torch
        network = self._model[0].auto_model
        tensor = torch.as_tensor(ids.astype(np.int64))

        def run() -> object:
            # Every token is real, so no mask is needed and the mean is plain. This is the fastest path of PyTorch.
            with torch.inference_mode():
                states = network(input_ids=tensor.to(self._device)).last_hidden_state
                return states.mean(dim=1).float().cpu().numpy()

        return run

    def warm(self, run: Callable[[], object]) -> dict[str, Any]:
        run()
        return {}

    def matrix_rate(self, width: int, wide: int, tokens: int) -> float:
        torch = self._torch
        dtype = self._options["dtype"]
        x, up, down = (
            torch.randn(shape).to(self._device, dtype) / shape[1] ** 0.5
            for shape in ((tokens, width), (width, wide), (wide, width))
        )

        def once(times: int) -> float:
            y, start = x, time.perf_counter()
            with torch.inference_mode():
                for _ in range(times):
                    y = y @ up @ down
                y[0, 0].item()  # waits for the device
            return (time.perf_counter() - start) / times

        once(1)
        times = max(1, round(0.1 / once(1)))
        return 4.0 * tokens * width * wide / min(once(times) for _ in range(10))

    def about(self) -> dict[str, Any]:
        import sentence_transformers  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        torch = self._torch
        return {
            "versions": {
                "sentence-transformers": sentence_transformers.__version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
            "dtype": str(self._options["dtype"]).removeprefix("torch."),
            "attention": self._options["attn_implementation"],
            "batch": self._batch,
            "device": "cpu" if self._device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
        }


class OnnxRuntime:
    """ONNX Runtime: on a CPU, in float32, with fused operators from its own optimiser, pooling in the graph.

    Texts are sorted by their tokens and padded to the longest of a batch.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import onnxruntime  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        if device != "cpu":
            raise ValueError("onnxruntime is compared on a CPU only")
        self._onnxruntime = onnxruntime
        self._fused = json.loads((folder / "fused.json").read_text(encoding="utf-8"))
        self._session = onnxruntime.InferenceSession(folder / "fused.onnx", providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "original" / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return self._session.run(["vectors"], inputs)[0]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        lengths = np.array([len(encoding.ids) for encoding in encodings])
        order = np.argsort(-lengths, kind="stable")
        vectors = None
        for start in range(0, len(order), BATCH["cpu"]):
            rows = order[start : start + BATCH["cpu"]]
            mask = (np.arange(lengths[rows].max()) < lengths[rows, None]).astype(np.int64)
            ids = np.zeros_like(mask)
            for row, index in enumerate(rows):
                ids[row, : lengths[index]] = encodings[index].ids
            found = self._run(ids, mask)
            vectors = np.empty((len(texts), found.shape[1]), np.float32) if vectors is None else vectors
            vectors[rows] = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert vectors is not None, "there is no text"
        return vectors

    def network(self, ids: np.ndarray) -> Callable[[], object]:
        wide = ids.astype(np.int64)
        mask = np.ones_like(wide)
        return lambda: self._run(wide, mask)

    def warm(self, run: Callable[[], object]) -> dict[str, Any]:
        run()
        return {}

    def matrix_rate(self, width: int, wide: int, tokens: int) -> None:
        del width, wide, tokens  # it has no matrix product to call

    def about(self) -> dict[str, Any]:
        return {
            "versions": {"onnxruntime": self._onnxruntime.__version__},
            "dtype": "float32",
            "batch": BATCH["cpu"],
            "fused": self._fused,
            "device": "cpu",
        }


ENGINES: dict[str, type[Tsjax | SentenceTransformers | OnnxRuntime]] = {
    "tsjax": Tsjax,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime": OnnxRuntime,
}

if __name__ == "__main__":
    name, folder, device = sys.argv[1:]
    serve(lambda: ENGINES[name](Path(folder), device))
