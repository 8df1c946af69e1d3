"""Several devices: eight virtual CPU devices, in a separate process, since JAX counts devices once."""

import json
import subprocess
import sys

import pytest

import tsjax
from tests.support.checkpoints import write_bert
from tsjax.errors import InputError

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
import jax, numpy as np
import tsjax
from tsjax.engine.batching import plan

model = sys.argv[1]
texts = [("the cat sat on the mat " * (n % 9)).strip() for n in range(203)]
one = tsjax.load(model, devices=1)
lengths = [len(one.encode(text, output_value="token_embeddings")) for text in texts]
expected = one.encode(texts)
report = {"devices": jax.device_count()}
for name, options in {"whole": {}, "shared out": {"shard_parameters": True}, "three": {"devices": 3}}.items():
    embedder = tsjax.load(model, token_budget=256, **options)
    vectors = embedder.encode(texts, temperature=0.8)
    leaves = jax.tree.leaves(embedder.pipeline.engine.params)
    report[name] = {
        "difference": float(np.abs(vectors - one.encode(texts, temperature=0.8)).max() / np.abs(expected).max()),
        "single": float(np.abs(embedder.encode(texts[5]) - expected[5]).max() / np.abs(expected).max()),
        "devices": len(embedder.devices),
        "shapes": [list(shape) for shape in embedder.shapes],
        "held": sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves),
        "rows": [len(batch.rows) for batch in plan(lengths, embedder._engine.shapes(embedder.max_seq_length))][:-1],
        "used": min(len(leaf.sharding.device_set) for leaf in leaves),
    }
    tokens = embedder.encode(texts[:9], output_value="token_embeddings")
    theirs = one.encode(texts[:9], output_value="token_embeddings")
    report[name]["tokens"] = max(float(np.abs(a - b).max()) for a, b in zip(tokens, theirs))
from tsjax.lab.learning.pairs import Pairs
from tsjax.lab.learning.recipe import Recipe
from tsjax.lab.learning.training import learn

own = [Pairs("texts", tuple(f"the cat {n}" for n in range(30)), tuple(f"mat {n} " * (n % 5 + 1) for n in range(30)))]
for name, options in {"heads": {}, "weights": {"weights": True, "weight_learning_rate": 1e-3}}.items():
    recipe = Recipe(steps=4, batch_size=10, evaluate_every=2, **options)
    single, all_of_them = (learn(tsjax.load(model, devices=n), own, own, recipe) for n in (1, 8))
    losses = [[look["validation_loss"] for look in learned.curve] for learned in (single, all_of_them)]
    report[name] = {"losses": losses}
    if name == "heads":
        values = [np.array(learned.temperature.value) for learned in (single, all_of_them)]
        report[name]["difference"] = float(np.abs(values[0] - values[1]).max())
        report[name]["moved"] = float(np.abs(values[0] - 1).max())
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 3, "max_position_embeddings": 64}
    return str(write_bert(tmp_path_factory.mktemp("model") / "source", **sizes))


def run(script, model, home):
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PATH": "/usr/bin:/bin"}
    environment["XDG_CACHE_HOME"] = environment["HOME"] = str(home)
    process = subprocess.run(
        [sys.executable, "-c", script, model], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report(model, tmp_path_factory):
    return run(SCRIPT, model, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("way", ["whole", "shared out", "three"])
def test_several_devices_give_the_vectors_of_one(report, way):
    assert report["devices"] == 8
    assert max(report[way][what] for what in ("difference", "single")) <= 2e-6
    assert report[way]["tokens"] <= 1e-5
    assert report[way]["devices"] == report[way]["used"] == (3 if way == "three" else 8)
    assert len(report[way]["rows"]) > 1
    # Every device has texts, except perhaps in the last batch.
    assert set(report[way]["rows"]) == {report[way]["devices"]}
    assert all(rows == report[way]["devices"] for rows, _ in report[way]["shapes"])


def test_parameters_that_are_shared_out_are_an_eighth_on_each(report):
    assert report["whole"]["held"] == 1
    assert report["shared out"]["held"] < 0.3  # The sizes in the test are not all multiples of eight.


def test_several_devices_learn_what_one_learns(report):
    assert report["heads"]["difference"] < 1e-3 < report["heads"]["moved"]
    for name in ("heads", "weights"):
        one, several = report[name]["losses"]
        assert several == pytest.approx(one, rel=1e-4)
        assert one[-1] < one[0]


CHOSEN = """
import json, pickle, sys
import jax
import tsjax

model, present = sys.argv[1], jax.devices()
embedders = [tsjax.load(model, devices=device) for device in (present[0], present[-1], present[0])]
report = {"pickled": {}}
for embedder in embedders:
    embedder.encode("the cat")
report["compilations"] = [embedder.statistics.compilations for embedder in embedders]
for name, devices in {"an object": present[-1], "objects": present[2:4], "a number": 2, "all": None}.items():
    embedder = tsjax.load(model, devices=devices)
    report["pickled"][name] = pickle.loads(pickle.dumps(embedder)).devices == embedder.devices
print(json.dumps(report))
"""


def test_devices_survive_a_pickle_and_have_programs_of_their_own(model, tmp_path):
    report = run(CHOSEN, model, tmp_path)
    assert all(report["pickled"].values())
    assert report["compilations"] == [1, 1, 0]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "devices must be"),
        (99, "this process has"),
        ([], "devices must be"),
        ("cpu", "devices must be"),
        (1.5, "devices must be"),
    ],
)
def test_devices_that_cannot_be_used_are_named(model, devices, message):
    with pytest.raises(InputError, match=message):
        tsjax.load(model, devices=devices)
