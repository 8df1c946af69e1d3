"""Forked children: refused at once if JAX was in use before the fork, and working if it was not."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.checkpoints import write_cross_encoder, write_routed, write_sentence_transformers

# Runs functions in forked children and prints the result or the error of each; None for a child that hung.
HELPERS = """
import json, multiprocessing, os, pickle, sys, threading

def outcome(function):
    try:
        function()
        return "done"
    except Exception as error:
        return [type(error).__name__, str(error)]

def in_child(function):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(outcome(function)))
    child.start()
    answer = ours.recv() if ours.poll(60) else None
    child.kill()
    child.join()
    return answer

def hold(*locks):
    # A thread that has them at the time of a fork; gives what lets them go.
    held, over = threading.Event(), threading.Event()
    def run():
        for lock in locks:
            lock.acquire()
        held.set()
        over.wait()
        for lock in locks:
            lock.release()
    threading.Thread(target=run, daemon=True).start()
    held.wait()
    return over.set
"""

AFTER = """
import tsjax
from tsjax import api
from tsjax.cli.main import main

first, second, third = sys.argv[1:]
embedder, scorer, routed = map(tsjax.load, (first, second, third))
texts, pairs = ["the cat", "of it"], [("the cat", "of it")]
expected = embedder.encode(texts)
tsjax.embed(texts, model=first)
stream = embedder.stream(texts * 5, block_size=2)
next(stream)
pickled = pickle.dumps(embedder)
engines = [model._engine for model in (embedder, scorer, *routed.routes.values())]
release = hold(api._kept(os.path.realpath(first), os.getpid())._lock, *(engine._counter._lock for engine in engines))

def learns():
    from tsjax.lab.learning.pairs import Pairs
    from tsjax.lab.learning.recipe import Recipe
    from tsjax.lab.learning.training import learn
    own = [Pairs("texts", tuple(f"the {n}" for n in range(30)), tuple(f"cat {n}" for n in range(30)))]
    learn(embedder, own, own, Recipe(steps=2, batch_size=10, evaluate_every=1))

def closed():
    with embedder:
        pass
    embedder.close()

def grandchild():
    answer = in_child(lambda: embedder.encode(texts))
    if answer != "done":
        raise RuntimeError(answer[0])

refused = {
    "encode": lambda: embedder.encode(texts),
    "encode nothing": lambda: embedder.encode([]),
    "encode_query": lambda: embedder.encode_query(texts),
    "encode_document": lambda: embedder.encode_document("the"),
    "stream": lambda: embedder.stream(texts),
    "a stream that has begun": lambda: next(stream),
    "warmup": lambda: embedder.warmup(),
    "predict": lambda: scorer.predict(pairs),
    "rank": lambda: scorer.rank("the", texts),
    "a scorer's warmup": lambda: scorer.warmup(),
    "routed": lambda: routed.encode(texts),
    "a route's query": lambda: routed.encode_query(texts),
    "a route's stream": lambda: routed.stream(texts),
    "tsjax.embed": lambda: tsjax.embed(texts, model=first),
    "tsjax.embed of another": lambda: tsjax.embed(texts, model=third),
    "load": lambda: tsjax.load(first),
    "load what is not there": lambda: tsjax.load("./nowhere"),
    "a scorer's constructor": lambda: tsjax.CrossEncoder(second),
    "unpickle": lambda: pickle.loads(pickled),
    "the engine": lambda: list(embedder._engine.compute([], embedder.temperature, max_length=9)),
    "a copy": lambda: __import__("copy").copy(embedder).encode(texts),
    "learn": learns,
    "a child's child": grandchild,
}
allowed = {
    "settings": lambda: (
        repr(routed), embedder.encoding_fingerprint, embedder.shapes, setattr(embedder, "temperature", 0.5)
    ),
    "statistics": lambda: (embedder.statistics, scorer.statistics, routed.statistics),
    "tokens": lambda: embedder.count_tokens(texts),
    "similarity": lambda: embedder.similarity(expected, expected),
    "pickle": lambda: pickle.dumps([embedder, scorer, routed]),
    "close": closed,
}
lines = first + "-texts.txt"
with open(lines, "w") as file:
    file.write("the cat\\n")

def command(*arguments):
    status = main([*arguments, "--model", first])
    if status != 2:
        raise RuntimeError(f"status {status}")

allowed["tsjax embed"] = lambda: command("embed", lines, "-o", first + ".npy")
allowed["tsjax batch"] = lambda: command("batch", "--input", lines, "--output", first + "-job")
report = {
    "refused": {name: in_child(function) for name, function in refused.items()},
    "allowed": {name: in_child(function) for name, function in allowed.items()},
}
release()
print(json.dumps({**report, "parent": bool((embedder.encode(texts) == expected).all())}))
"""

BEFORE = """
import tsjax, tsjax.encoders.cross_encoder, tsjax.encoders.router
from tsjax import api

first, second, third = sys.argv[1:]
hold(api._kept(os.path.realpath(first), os.getpid())._lock)  # a thread of the parent's is about to load it
for failing in (lambda: tsjax.load("./nowhere"), lambda: tsjax.load(second, dtype="int9")):
    assert outcome(failing) != "done"

def uses():
    assert tsjax.embed(["the cat"], model=first).shape == (1, 36)
    assert tsjax.load(second).predict([("the", "cat")]).shape == (1,)
    answer = in_child(lambda: tsjax.load(third))  # forked by one in which JAX is in use
    assert answer[0] == "LifecycleError", answer

report = {"clean": [in_child(uses), in_child(uses)]}
import jax.numpy as jnp
jnp.ones(3).sum()
report["after another's use of JAX"] = in_child(lambda: tsjax.load(third))
print(json.dumps(report))
"""

# JAX is in use before the fork, and tsjax is not imported.
UNSEEN = """
import jax.numpy as jnp
jnp.ones(3).sum()

def loads():
    import tsjax
    tsjax.load(sys.argv[1])

report = {"child": in_child(loads)}
loads()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    one = write_sentence_transformers(path / "embedder")
    return list(map(str, (one, write_cross_encoder(path / "cross-encoder"), write_routed(path / "routed"))))


def run(script, directories):
    # JAX warns of every fork, and Python 3.12 warns of forks in a process with threads.
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELPERS + script, *directories],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_a_child_forked_after_jax_was_used_is_refused_at_once(directories):
    report = run(AFTER, directories)
    grandchild = report["refused"].pop("a child's child")
    assert grandchild == ["RuntimeError", "LifecycleError"]
    for name, answer in report["refused"].items():
        assert answer is not None, f"{name} hangs"
        assert answer[0] == "LifecycleError", (name, answer)
        assert "spawn" in answer[1]
    assert set(report["allowed"].values()) == {"done"}, report["allowed"]
    assert report["parent"]


@pytest.mark.slow
def test_a_child_forked_before_jax_was_used_is_as_any_other_process(directories):
    report = run(BEFORE, directories)
    assert report["clean"] == ["done", "done"]
    assert report["after another's use of JAX"][0] == "LifecycleError"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system does not tell of threads")  # noqa: PTH110
def test_a_child_that_imports_tsjax_only_after_the_fork_is_refused(directories):
    assert run(UNSEEN, directories[:1])["child"][0] == "LifecycleError"
