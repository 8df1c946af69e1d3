import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from tests.support.checkpoints import tokenizer_json
from tsjax.errors import CheckpointError, InputError
from tsjax.text.pairs import PairTokenizer

words = st.lists(st.sampled_from(["the", "of", "cat", "was.", "é", ""]), max_size=9).map(" ".join)
BERT = tokenizer_json()


def roberta():
    """Return a tokenizer of the same words, with two separators between the texts, and types that are all 0."""
    tokenizer = Tokenizer.from_str(BERT)
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str()


@settings(deadline=None, max_examples=300)
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=4), length=st.integers(5, 30), kind=st.booleans())
def test_the_same_as_the_rust_tokenizer(pairs, length, kind):
    content = roberta() if kind else BERT
    tokenized = PairTokenizer(content, length).encode(pairs)
    rust = Tokenizer.from_str(content)
    rust.no_padding()
    rust.enable_truncation(length)
    for index, encoding in enumerate(rust.encode_batch(pairs)):
        assert tokenized.ids[index].tolist() == encoding.ids
        assert tokenized.type_ids[index].tolist() == encoding.type_ids
        assert tokenized.lengths[index] == len(encoding.ids)
        assert tokenized.truncated[index] == bool(encoding.overflowing)


def test_the_maximum_length_leaves_room():
    for length in (3, 0, True, 2.5):
        with pytest.raises(InputError, match="at least 4"):
            PairTokenizer(BERT, length)
    assert PairTokenizer(BERT, 4).with_max_length(9).max_length == 9


def test_no_pairs():
    tokenized = PairTokenizer(BERT, 9).encode([])
    assert tokenized.ids == []
    assert tokenized.lengths.dtype == np.int32


def test_what_is_no_tokenizer():
    with pytest.raises(CheckpointError, match="cannot be read"):
        PairTokenizer(json.dumps({}), 9)
