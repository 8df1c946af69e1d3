import json

import pytest

from tests.support.checkpoints import tokenizer_json
from tsjax.errors import CheckpointError
from tsjax.text.pairs import PairTokenizer
from tsjax.text.panics import PanicError, reported_panics
from tsjax.text.tokenizer import TextTokenizer


class PanicException(BaseException):  # the class that pyo3 raises
    pass


def test_a_panic_is_an_exception():
    with pytest.raises(PanicError, match="no entry"), reported_panics():
        raise PanicException("no entry found for key")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_else_is_changed(error):
    with pytest.raises(error), reported_panics():
        raise error


@pytest.mark.parametrize("tokenizer", [TextTokenizer, PairTokenizer])
def test_a_panic_of_the_rust_tokenizer(tokenizer):
    content = json.loads(tokenizer_json())
    del content["post_processor"]["special_tokens"]["[SEP]"]
    with pytest.raises(CheckpointError):
        tokenizer(json.dumps(content), 20).encode([("the", "cat")] if tokenizer is PairTokenizer else ["the"])


@pytest.mark.parametrize("tokenizer", [TextTokenizer, PairTokenizer])
def test_an_id_that_no_embedding_has(tokenizer):
    content = json.loads(tokenizer_json())
    content["model"]["vocab"]["a"] = 2**31
    with pytest.raises(CheckpointError, match="2147483648"):
        tokenizer(json.dumps(content), 20).encode([("a", "a")] if tokenizer is PairTokenizer else ["a"])
