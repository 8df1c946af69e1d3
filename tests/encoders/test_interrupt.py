"""Ctrl-C in the middle of a long call: it stops the call and does no damage."""

import json
import os
import subprocess
import sys

import pytest

from conversion.convert import convert
from tests.support.checkpoints import write_bert

pytestmark = pytest.mark.slow

# The tokens of these texts alone take seconds. The signal goes to the entire process, as from a terminal. Everything is
# compiled before: XLA continues a program whose compilation was interrupted, and can crash if the process ends
# meanwhile.
CODE = """
import json, os, signal, sys, threading, time
import tsjax
embedder = tsjax.load(sys.argv[1])
embedder.warmup(verbose=False)
few = ["the cat", "of and a", ""]
before = embedder.encode(few).tobytes()
many = ["the cat of and a dog is in it for he was on are with as " * 4] * 100_000
sent = []
def send():
    sent.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
timer = threading.Timer(float(sys.argv[2]), send)
timer.start()
try:
    embedder.encode(many)
    late = None
except KeyboardInterrupt:
    late = time.process_time() - sent[0]
print(json.dumps([late, embedder.statistics.texts, embedder.encode(few).tobytes() == before]))
"""


@pytest.mark.parametrize("seconds", [0.1, 1])
def test_an_interrupt_stops_encode_and_leaves_the_embedder_usable(tmp_path, seconds):
    convert(write_bert(tmp_path / "source", max_position_embeddings=200), tmp_path / "converted")
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "converted"), str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.returncode == 0, process.stderr
    late, texts, same = json.loads(process.stdout)
    assert late is not None
    assert late < 3  # seconds of all cores together; the complete call takes many times that
    assert texts < 100_000
    assert same
