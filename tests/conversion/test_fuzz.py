"""Random changes to the JSON files of a checkpoint: each result is read, or refused in one sentence."""

import faulthandler
import itertools

import numpy as np
import pytest
from safetensors.numpy import save_file

import conversion.convert
from conversion.convert import convert
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_json, write_sentence_transformers
from tests.support.fuzzing import Fuzzer
from tsjax.errors import TsjaxError
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import TextTokenizer

NAMES = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}
TEXT = "The cat, café at THIS one \u4e00 [MASK] \x00"


def embedder(path, kind="BertTokenizer"):
    rng = np.random.default_rng(0)
    dense = {
        "in_features": 36,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "weights": {"linear.weight": rng.standard_normal((8, 36)).astype(np.float32)},
    }
    write_sentence_transformers(path, heads=[("Dense", dense), ("Normalize", {})])
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    options = {"__version__": {"sentence_transformers": "5.1.0"}, "prompts": {"query": "the "}}
    write_json(path / "config_sentence_transformers.json", {**options, "similarity_fn_name": "cosine"})
    write_json(path / "special_tokens_map.json", {**NAMES, "mask_token": {"content": "[MASK]", "lstrip": False}})
    write_json(path / "added_tokens.json", {"[MASK]": 4})
    config = {"tokenizer_class": kind, "do_lower_case": True, "model_max_length": 512, **NAMES}
    write_json(path / "tokenizer_config.json", {**config, "strip_accents": None, "padding_side": "right"})
    return (
        *("config.json", "tokenizer.json", "tokenizer_config.json") * 3,
        *("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json"),
        *("config_sentence_transformers.json", "special_tokens_map.json", "added_tokens.json"),
    )


def as_it_is(path):
    """Write a checkpoint with a tokenizer class that takes tokenizer.json unchanged."""
    return embedder(path, "PreTrainedTokenizerFast")


def scorer(path):
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    config = {**BERT_CONFIG, "architectures": ["BertForSequenceClassification"], "sentence_transformers": activation}
    weights = {f"bert.{name}": weight for name, weight in bert_weights(config).items()}
    weights |= {"bert.pooler.dense.weight": np.eye(36, dtype="f4"), "bert.pooler.dense.bias": np.zeros(36, "f4")}
    weights |= {"classifier.weight": np.ones((1, 36), "f4"), "classifier.bias": np.zeros(1, "f4")}
    write_bert(path, weights=weights, **config)
    write_json(path / "config_sentence_transformers.json", {"model_type": "CrossEncoder", **activation})
    text = {"method": "forward", "method_output_name": "logits"}
    task = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 20, "modality_config": {"text": text}, **task})
    return ("config.json", "config.json", "sentence_bert_config.json", "config_sentence_transformers.json")


def router(path):
    prefix = "sentence_transformers.models"
    write_bert(path / "query_0_Transformer")
    write_json(path / "query_1_Pooling" / "config.json", {"embedding_dimension": 36, "pooling_mode": "mean"})
    modules = {"query_0_Transformer": f"{prefix}.Transformer", "query_1_Pooling": f"{prefix}.Pooling"}
    parameters = {"default_route": "query", "allow_empty_key": True, "route_mappings": {"('query', 'text')": "query"}}
    structure = {"query": [*modules], "document": [*modules]}
    content = {"types": modules, "structure": structure, "parameters": parameters}
    write_json(path / "router_config.json", content)
    write_json(path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": f"{prefix}.Router"}])
    return ("router_config.json", "router_config.json", "modules.json")


def adapter(path):
    write_bert(path)
    name = "base_model.model.encoder.layer.0.attention.self.query.lora"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["query"]}
    write_json(path / "retrieval" / "adapter_config.json", config)
    factors = {f"{name}_A.weight": np.ones((2, 36), "f4"), f"{name}_B.weight": np.ones((36, 2), "f4")}
    save_file(factors, path / "retrieval" / "adapter_model.safetensors")
    return ("retrieval/adapter_config.json",)


@pytest.fixture
def _hangs_end():
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def read(directory, monkeypatch, **options):
    """Convert a checkpoint without writing the weights, and tokenise with it."""
    saved = []
    monkeypatch.setattr(conversion.convert, "save", lambda _, *parts, **more: saved.append(parts))
    monkeypatch.setattr(conversion.convert, "save_routed", lambda _, config, parts, **more: saved.extend(parts))
    convert(directory, directory.parent / "converted", **options)
    for metadata, _, tokenizer in saved:
        TextTokenizer(tokenizer, metadata.max_seq_length).encode(["", TEXT])
        PairTokenizer(tokenizer, max(metadata.max_seq_length, 8)).encode([("", TEXT)])


@pytest.mark.slow
@pytest.mark.usefixtures("_hangs_end")
@pytest.mark.parametrize(
    ("made", "changes", "options"),
    [
        (embedder, 2000, {}),
        (as_it_is, 2000, {}),
        (scorer, 400, {}),
        (router, 400, {}),
        (adapter, 200, {"adapter": "retrieval"}),
    ],
)
def test_changed_files_are_read_or_refused(tmp_path, monkeypatch, made, changes, options):
    directory = tmp_path / "model"
    files = made(directory)
    read(directory, monkeypatch, **options)
    failed, refused = [], 0
    for what in itertools.islice(Fuzzer(directory, files, seed=made.__name__), changes):
        try:
            read(directory, monkeypatch, **options)
        except TsjaxError as error:
            refused += 1
            if not str(error) or len(str(error)) > 2000:
                failed.append(f"{what}: a message of {len(str(error))} characters")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed.append(f"{what}: {type(error).__name__}: {str(error)[:100]}")
    assert not failed, f"{len(failed)} of {changes}:\n" + "\n".join(failed[:20])
    assert changes / 4 < refused < changes  # Some changes are refused, and some are not.
