"""Memory stays flat for any number of texts; the test runs in its own process, whose peak can be measured."""

import json
import subprocess
import sys

import pytest

from tests.support.checkpoints import write_bert

pytestmark = pytest.mark.slow

SCRIPT = """
import json, resource, sys
import numpy as np
import tsjax

embedder = tsjax.load(sys.argv[1])
texts = lambda count: (f"the cat {n} sat of" for n in range(count))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
peaks = []
for count in (20_000, 200_000):
    assert sum(len(block) for block in embedder.stream(texts(count))) == count
    peaks.append(peak())
inputs = list(texts(200_000))  # the caller's own
before = peak()
vectors = embedder.encode(inputs)
print(json.dumps({"stream": peaks, "encode": peak() - before, "output": vectors.nbytes}))
"""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    source = write_bert(tmp_path_factory.mktemp("model") / "source", num_hidden_layers=1)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source)], capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_stream_of_ten_times_as_many_texts_takes_no_more_memory(peaks):
    few, many = peaks["stream"]
    assert many <= 1.1 * few


def test_encode_takes_the_memory_of_its_output(peaks):
    assert peaks["encode"] <= 1.5 * peaks["output"] + 50e6  # and that of one block of texts as tokens
