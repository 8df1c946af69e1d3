"""Changed JSON files of a checkpoint: each is read, or refused in one sentence."""

import faulthandler
import itertools

import numpy as np
import pytest
from checkpoints import write_json, write_sentence_transformers
from fuzzing import Fuzzer

import conversion.convert
from conversion.convert import convert
from tsjax.errors import TsjaxError
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import TextTokenizer

CHANGES = 2500  # of each of two classes of tokenizers
FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json") * 3,
    *("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "special_tokens_map.json", "added_tokens.json"),
)


@pytest.fixture(params=["BertTokenizer", "PreTrainedTokenizerFast"])
def directory(tmp_path, request):
    rng = np.random.default_rng(0)
    dense = {
        "in_features": 36,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "weights": {"linear.weight": rng.standard_normal((8, 36)).astype(np.float32)},
    }
    path = write_sentence_transformers(tmp_path / "model", heads=[("Dense", dense), ("Normalize", {})])
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    options = {"__version__": {"sentence_transformers": "5.1.0"}, "prompts": {"query": "the "}}
    write_json(path / "config_sentence_transformers.json", {**options, "similarity_fn_name": "cosine"})
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}
    write_json(path / "special_tokens_map.json", {**names, "mask_token": {"content": "[MASK]", "lstrip": False}})
    write_json(path / "added_tokens.json", {"[MASK]": 4})
    config = {"tokenizer_class": request.param, "do_lower_case": True, "model_max_length": 512, **names}
    write_json(path / "tokenizer_config.json", {**config, "strip_accents": None, "padding_side": "right"})
    return path


@pytest.fixture
def _hangs_end():
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def read(directory, monkeypatch):
    """Convert, without writing the weights, and tokenise."""
    saved = []
    monkeypatch.setattr(conversion.convert, "save", lambda _, *parts, **options: saved.extend(parts))
    convert(directory, directory.parent / "converted")
    metadata, _, tokenizer = saved
    text = "The cat, café at THIS one \u4e00 [MASK] \x00"
    TextTokenizer(tokenizer, metadata.max_seq_length).encode(["", text])
    PairTokenizer(tokenizer, max(metadata.max_seq_length, 8)).encode([("", text)])


@pytest.mark.usefixtures("_hangs_end")
def test_changed_files_are_read_or_refused(directory, monkeypatch):
    read(directory, monkeypatch)
    failed, refused = [], 0
    for what in itertools.islice(Fuzzer(directory, FILES, seed=1), CHANGES):
        try:
            read(directory, monkeypatch)
        except TsjaxError as error:
            refused += 1
            if not str(error) or len(str(error)) > 2000:
                failed.append(f"{what}: a message of {len(str(error))} characters")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failed.append(f"{what}: {type(error).__name__}: {str(error)[:100]}")
    assert not failed, f"{len(failed)} of {CHANGES}:\n" + "\n".join(failed[:20])
    assert CHANGES / 4 < refused < CHANGES  # neither all nor none
