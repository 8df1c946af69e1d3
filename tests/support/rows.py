"""Rows of the table of families: the checked checkpoint, and its original in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.families import CASES, HEADS, SIZES, Case
from tests.support.lazy import lazy
from tests.support.published import DIALECTS, jina_v2, save_jina_v2

load_original = lazy("conversion.originals", "load_original")
torch = lazy("torch")

EXAMPLES = {
    "BERT": "MiniLM, BGE, GIST, E5, Arctic, mxbai",
    "BERT, strided": "e5-base-4k",
    "RoBERTa": "msmarco-roberta-base-ance-firstp",
    "CamemBERT": "sentence-camembert",
    "XLM-RoBERTa": "multilingual-e5, bge-m3 (dense), arctic-l-v2.0",
    "DistilBERT": "msmarco-distilbert, multi-qa-distilbert",
    "MPNet": "all-mpnet-base-v2, multi-qa-mpnet",
    "ELECTRA": "older checkpoints",
    "ALBERT": "paraphrase-albert",
    "T5": "gtr-t5, sentence-t5",
    "T5 v1.1": "gated checkpoints",
    "mT5": "multilingual T5",
    "ModernBERT": "gte-modernbert-base, modernbert-embed-base, granite",
    "NomicBert": "nomic-embed-text, transformers' config",
    "GTE": "gte, transformers' config",
    "Jina v3": "jina-embeddings-v3-hf",
    "EuroBERT": "EuroBERT embedders",
    "Qwen3-Embedding": "Qwen3-Embedding-0.6B",
    "EmbeddingGemma": "embeddinggemma-300m",
}


class Strided:
    """BERT with e5-base-4k's positions: every ``stride``-th row for texts that fit so, else every row."""

    def __init__(self, model, stride, up_to):
        self.model, self.stride, self.up_to, self.config = model, stride, up_to, model.config

    def __call__(self, input_ids, attention_mask):
        rows = torch.arange(input_ids.shape[1])[None, :]
        short = (attention_mask.sum(1) <= self.up_to)[:, None]
        positions = torch.where(short, rows * self.stride, rows).clamp(max=self.config.max_position_embeddings - 1)
        return self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)


@dataclass(frozen=True)
class Row:
    """A family or a dialect of one.

    ``make`` writes a small random checkpoint and gives its original; ``options`` are for the converter. ``scorer``
    writes one with the head of a cross-encoder, where the family has one.
    """

    name: str
    example: str
    make: Callable[[Path], Any]
    options: dict
    scorer: Callable[[Path], None] | None = None


def _case(case):
    def make(path):
        case.save(path)
        return load_original(path)

    return make


def _scorer(name):
    case, head = CASES[name], HEADS[name]

    def make(path):
        typed = getattr(case.config(**case.sizes), "type_vocab_size", 0) > 1
        scorer = Case(case.config_name, head, {**case.sizes, "num_labels": 1}, case.spread)
        scorer.save(path, tokenizer="BertTokenizer" if typed else "PreTrainedTokenizerFast")

    return make


def _dialect(dialect):
    def make(path):
        model = dialect.model()
        dialect.save(path, dialect.weights(model))
        return model

    return make


def _jina_v2(path):
    model = jina_v2()
    save_jina_v2(path, model)
    return model


def _strided(path):
    Case("BertConfig", "BertModel", {**SIZES, "type_vocab_size": 2, "max_position_embeddings": 164}).save(path)
    return Strided(load_original(path), 4, 41)


_FAMILIES = {"nomic": "NomicBert", "gte": "GTE", "arctic": "GTE", "jina": "Jina v3"}
ROWS = [
    Row(name, EXAMPLES[name], _case(case), {}, _scorer(name) if name in HEADS else None) for name, case in CASES.items()
]
ROWS.insert(1, Row("BERT, strided", EXAMPLES["BERT, strided"], _strided, {"position_stride": 4}))
ROWS += [
    Row(f"{_FAMILIES[name.partition('-')[0]]} as published", name, _dialect(dialect), {})
    for name, dialect in DIALECTS.items()
]
ROWS.append(Row("Jina v2", "jina-embeddings-v2 (original written from paper and config)", _jina_v2, {}))
