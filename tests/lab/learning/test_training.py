"""Learning on small random models: gradients, a decreasing loss, stopping, and resuming after a kill."""

import contextlib
import dataclasses
import itertools

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tests.support.learning_pairs import pairs
from tsjax.errors import InputError, OutputError
from tsjax.lab.learning import gradients, optimizer, training
from tsjax.lab.learning.loss import contrastive
from tsjax.lab.learning.pairs import Pairs, schedule
from tsjax.lab.learning.recipe import Recipe
from tsjax.lab.learning.training import learn, refit
from tsjax.model.forward import init_params
from tsjax.temperature import LogLength, Piecewise, Temperature


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    options = {"prompts": {"query": "it was ", "document": "this is "}}
    path = write_sentence_transformers(
        tmp_path_factory.mktemp("st") / "model", options=options, max_position_embeddings=41
    )
    return tsjax.load(path)


TRAINING, VALIDATION = [pairs(24, 0)], [pairs(12, 1)]
QUICK = Recipe(steps=6, batch_size=8, evaluate_every=2, learning_rate=0.05)


@pytest.mark.slow
def test_the_loss_falls_and_the_best_is_kept(embedder):
    looks = []
    learned = learn(embedder, TRAINING, VALIDATION, dataclasses.replace(QUICK, steps=12), report=looks.append)
    assert list(learned.curve) == looks
    losses = [look["validation_loss"] for look in looks]
    assert min(losses) < losses[0]
    assert looks[losses.index(min(losses))]["step"] == learned.best_step
    assert learned.weights is None
    assert np.shape(learned.temperature.value) == (3, 3)
    assert np.ptp(learned.temperature.value) > 0.01


@pytest.mark.slow
def test_half_precision_learns_much_the_same(embedder):
    half = tsjax.load(embedder._header.path, dtype="bfloat16")
    recipe = dataclasses.replace(QUICK, steps=12, learning_rate=0.02)
    runs = [learn(model, TRAINING, VALIDATION, recipe) for model in (embedder, half)]
    starts, ends = ([run.curve[place]["validation_loss"] for run in runs] for place in (0, -1))
    assert starts[1] != starts[0]
    np.testing.assert_allclose(starts[1], starts[0], rtol=0.02)
    assert ends[1] < starts[1]
    assert np.corrcoef([np.log(run.temperature.value).ravel() for run in runs])[0, 1] > 0.9


@pytest.mark.slow
def test_in_half_precision_what_learns_is_float32(embedder):
    half = tsjax.load(embedder._header.path, dtype="bfloat16")
    run = training._Run(half, TRAINING, VALIDATION, dataclasses.replace(QUICK, weights=True))
    start = run._network.place(run._start)
    state = {"learned": start, "best": start, "optimizer": run._optimizer.init(start)}
    queries = run._training[0].queries
    gradient = run._network.pull(start, queries, np.ones((24, half.embedding_dimension), np.float32))
    after, _ = run._step(state, next(schedule([24], 8, 0)))
    for tree in (gradient, after):
        floats = [leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert floats
        assert set(floats) == {jnp.dtype("float32")}


@pytest.mark.slow
def test_many_pairs_validate_in_blocks(embedder, monkeypatch):
    monkeypatch.setattr(training, "_VALIDATION_BLOCK", 5)
    run = training._Run(embedder, TRAINING, VALIDATION, QUICK)
    ones = {"log_value": jnp.zeros((3, 3))}
    blocks = [
        Pairs("block", VALIDATION[0].queries[i : i + 4], VALIDATION[0].documents[i : i + 4]) for i in range(0, 12, 4)
    ]
    expected = np.mean([float(plain_loss(embedder, jnp.ones((3, 3)), block, QUICK)) for block in blocks])
    np.testing.assert_allclose(run._validate(ones), expected, rtol=1e-5)


@pytest.mark.slow
def test_without_validation_every_step_is_taken_and_the_last_kept(embedder):
    learned = learn(embedder, TRAINING, (), dataclasses.replace(QUICK, patience=1, batch_size=24))
    assert learned.steps == learned.best_step == QUICK.steps
    assert [look["validation_loss"] for look in learned.curve] == [None] * 4
    assert learned.curve[-1]["loss"] < learned.curve[1]["loss"]


@pytest.mark.slow
def test_a_refit_learns_from_all_pairs_for_as_many_steps_as_were_best(embedder, tmp_path):
    recipe = dataclasses.replace(QUICK, steps=12)
    first = dataclasses.replace(learn(embedder, TRAINING, VALIDATION, QUICK), best_step=4)
    again = refit(embedder, TRAINING, VALIDATION, recipe, first, directory=tmp_path / "refit")
    assert again.refitted
    assert (again.curve, again.best_step) == (first.curve, 4)
    all_pairs = Pairs(
        "all", TRAINING[0].queries + VALIDATION[0].queries, TRAINING[0].documents + VALIDATION[0].documents
    )
    plain = learn(embedder, [all_pairs], (), dataclasses.replace(recipe, steps=4))  # Adam's rate is constant.
    np.testing.assert_array_equal(again.temperature.value, plain.temperature.value)
    assert np.any(again.temperature.value != first.temperature.value)
    assert (tmp_path / "refit" / "run.json").exists()


@pytest.mark.slow
def test_a_refits_steps_have_the_learning_rates_of_the_first(embedder):
    recipe = dataclasses.replace(QUICK, form="none", weights=True, weight_learning_rate=1e-3, steps=8, warmup=0.5)
    looks = []
    first = dataclasses.replace(learn(embedder, TRAINING, (), recipe, report=looks.append), best_step=4)
    again = learn(embedder, TRAINING, (), recipe, stop_after=4)
    assert [look["loss"] for look in again.curve] == [look["loss"] for look in looks[:3]]
    found = refit(embedder, TRAINING, VALIDATION, recipe, first)
    expected = learn(embedder, [TRAINING[0] + VALIDATION[0]], (), recipe, stop_after=4)
    for one, other in zip(jax.tree.leaves(found.weights), jax.tree.leaves(expected.weights), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="needs the pairs that validated"):
        refit(embedder, TRAINING, (), recipe, first)


def test_where_the_beginning_was_best_there_is_no_refit(embedder):
    nothing = dataclasses.replace(learn(embedder, TRAINING, VALIDATION, QUICK), best_step=0)
    assert refit(embedder, TRAINING, VALIDATION, QUICK, nothing) is nothing


def plain_loss(embedder, tau, chosen, recipe, weights=None):
    """Return the loss of a batch, all texts at once, without the penalty, as a function of τ by layer and head."""
    from tsjax.model.forward import apply

    queries, documents = chosen.texts(range(len(chosen)))
    tokenizer = embedder._tokenizer

    def vectors(texts, prompt):
        tokens = tokenizer.encode([prompt + text for text in texts])
        ids = np.zeros((len(texts), tokens.lengths.max()), np.int32)
        for row, own in enumerate(tokens.ids):
            ids[row, : len(own)] = own
        params = jax.device_get(embedder.pipeline.engine.params) if weights is None else weights
        out = apply(
            embedder.metadata.model, params, jnp.asarray(ids), jnp.asarray(tokens.lengths), tau[:, None]
        ).embeddings
        return out / jnp.linalg.norm(out, axis=1, keepdims=True)

    logits = 20 * vectors(queries, "it was ") @ vectors(documents, "this is ").T
    logits = jnp.where(chosen.excluded(range(len(chosen))), -jnp.inf, logits)
    return -jnp.mean(jax.nn.log_softmax(logits, axis=1)[jnp.arange(len(queries)), jnp.arange(len(queries))])


@pytest.mark.slow
def test_the_cached_gradient_is_the_whole_batchs(embedder, monkeypatch):
    """Chunks of two or three texts, including hard negatives, give the same as JAX on all texts at once."""
    monkeypatch.setitem(gradients._CHUNK, "cpu", 64)
    chosen = pairs(8, 2, hard=1)
    recipe = dataclasses.replace(QUICK, penalty=0.0)
    run = training._Run(embedder, [chosen], VALIDATION, recipe)
    learned = {"log_value": jnp.asarray(np.random.default_rng(0).normal(0, 0.2, (3, 3)), jnp.float32)}
    everything = np.arange(8)
    texts = run._training[0].of(everything)
    vectors = [run._network.embed(learned, each) for each in texts]
    assert len(list(run._network._chunks(texts[1]))) > 3
    excluded = chosen.excluded(everything)
    loss, cotangents = training._loss_and_gradient(*vectors, excluded, scale=20.0, dimensions=(), cosine=True)
    parts = [run._network.pull(learned, each, np.asarray(given)) for each, given in zip(texts, cotangents, strict=True)]
    expected_loss, expected = jax.jit(
        jax.value_and_grad(lambda log: plain_loss(embedder, jnp.exp(log), chosen, recipe))
    )(learned["log_value"])
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(parts[0]["log_value"] + parts[1]["log_value"], expected, rtol=1e-3, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"form": "scalar"},
        {"form": "layers", "by_length": Piecewise(8, 30, 0.5)},
        {"form": "scalar", "by_length": LogLength(16)},
        {"form": "heads", "side": "documents"},
        {"form": "scalar", "side": "queries"},
    ],
)
def test_every_form_learns_and_is_a_temperature(embedder, change):
    recipe = dataclasses.replace(QUICK, steps=2, **change)
    run = training._Run(embedder, TRAINING, VALIDATION, recipe)
    # It is validated on its own pairs: one number does not generalise from two dozen.
    learned = learn(embedder, TRAINING, TRAINING, dataclasses.replace(recipe, steps=12))
    tau = learned.temperature
    assert learned.best_step > 0
    own = tau.query if recipe.side == "queries" else tau
    assert np.shape(own.value) == {"scalar": (), "layers": (3,), "heads": (3, 3)}[recipe.form]
    assert type(own.by_length) is type(recipe.by_length)
    if recipe.side == "documents":
        assert tau.query == Temperature()
    if recipe.side == "queries":
        assert dataclasses.replace(tau, query=None) == Temperature()
    # The embedder with that temperature computes what learning computed.
    numbers = {"log_value": jnp.log(jnp.asarray(own.value, jnp.float32))}
    if isinstance(own.by_length, Piecewise):
        assert own.by_length.factor != 1
        numbers["log_factor"] = jnp.log(jnp.float32(own.by_length.factor))
    queries, documents = run._validation[0].of(np.arange(12))
    for texts, encode, given in (
        (queries, embedder.encode_query, VALIDATION[0].queries),
        (documents, embedder.encode_document, VALIDATION[0].documents),
    ):
        expected = encode(given, temperature=tau)
        np.testing.assert_allclose(run._network.embed(numbers, texts), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_weights_learn_too(embedder):
    recipe = dataclasses.replace(QUICK, form="none", weights=True, weight_learning_rate=1e-3, matryoshka=(12,), steps=8)
    learned = learn(embedder, [pairs(24, 0, hard=1)], VALIDATION, recipe)
    assert learned.temperature == Temperature()
    assert learned.curve[-1]["validation_loss"] < learned.curve[0]["validation_loss"] - 0.01
    ones = jnp.ones((3, 3))
    plain = dataclasses.replace(recipe, matryoshka=())
    before = plain_loss(embedder, ones, VALIDATION[0], plain)
    assert plain_loss(embedder, ones, VALIDATION[0], plain, learned.weights) < before


def test_the_same_seed_gives_the_same_bits_and_another_does_not(embedder):
    curves = [learn(embedder, TRAINING, VALIDATION, dataclasses.replace(QUICK, seed=seed)) for seed in (0, 0, 1)]
    assert curves[0] == curves[1]
    assert curves[0].temperature != curves[2].temperature


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("weights", [False, True])
def test_a_killed_run_ends_as_if_it_had_not_been(embedder, tmp_path, weights, monkeypatch):
    recipe = dataclasses.replace(QUICK, weights=weights, weight_learning_rate=1e-3)
    whole = learn(embedder, TRAINING, VALIDATION, recipe, directory=tmp_path / "whole")
    step = training._Run._step
    for last in (1, 3, 2, 5):  # the number of steps before each kill; the first kill is before anything is saved
        steps = []

        def counted(self, *arguments, steps=steps, last=last):
            if len(steps) == last:
                raise Killed
            steps.append(1)
            return step(self, *arguments)

        monkeypatch.setattr(training._Run, "_step", counted)
        with contextlib.suppress(Killed):
            learn(embedder, TRAINING, VALIDATION, recipe, directory=tmp_path / "killed")
    again = learn(embedder, TRAINING, VALIDATION, recipe, directory=tmp_path / "killed")
    assert again.temperature == whole.temperature
    assert again.curve == whole.curve
    jax.tree.map(np.testing.assert_array_equal, again.weights, whole.weights)


@pytest.mark.parametrize(
    ("change", "data", "options", "message"),
    [
        ({"learning_rate": 0.1}, (TRAINING, VALIDATION), {}, r"recipe.learning_rate \(0.05, and now 0.1\)"),
        ({}, ([pairs(24, 5)], VALIDATION), {}, "another training"),
        ({}, (TRAINING, [pairs(24, 5)]), {}, "another validation"),
        ({}, (TRAINING, VALIDATION), {"max_seq_length": 30}, "another model"),
        ({}, (TRAINING, VALIDATION), {"similarity_fn_name": "dot"}, "another similarity"),
    ],
)
def test_another_run_is_not_continued(embedder, tmp_path, change, data, options, message):
    quick = dataclasses.replace(QUICK, steps=2)
    learn(embedder, TRAINING, VALIDATION, quick, directory=tmp_path / "run")
    other = tsjax.load(embedder.metadata.source, **options)
    with pytest.raises(InputError, match=message):
        learn(other, *data, dataclasses.replace(quick, **change), directory=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.9}, "begins at τ = 1"), ({"similarity_fn_name": "euclidean"}, "cosine and dot only")],
)
def test_a_model_that_learning_would_misread_is_refused(embedder, options, message):
    with pytest.raises(InputError, match=message):
        learn(tsjax.load(embedder.metadata.source, **options), TRAINING, VALIDATION, QUICK)


@pytest.mark.parametrize("cosine", [True, False])
def test_the_loss_by_hand(cosine):
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    excluded = np.zeros((3, 5), bool)
    excluded[1, 4] = excluded[2, 0] = True
    losses = []
    for dimension in (8, 3):
        for i in range(3):
            x, y = queries[i, :dimension], documents[:, :dimension]
            scores = 7 * (y @ x / (np.linalg.norm(x) * np.linalg.norm(y, axis=1)) if cosine else y @ x)
            losses.append(np.log(np.exp(scores[~excluded[i]]).sum()) - scores[i])
    given = (jnp.asarray(queries, jnp.float32), jnp.asarray(documents, jnp.float32), jnp.asarray(excluded))
    np.testing.assert_allclose(contrastive(*given, 7.0, (3,), cosine=cosine), np.mean(losses), rtol=1e-5)


@pytest.mark.slow
def test_matrices_and_tables_decay_and_nothing_else(embedder):
    decays = optimizer.decays({"weights": init_params(embedder.metadata.model)})
    leaves = jax.tree_util.tree_leaves_with_path(decays)
    assert {path[-1].key for path, value in leaves if value} == {"kernel", "embedding"}
    assert {path[-1].key for path, value in leaves if not value} == {"bias", "scale"}


def test_the_weights_rate_rises_and_falls():
    recipe = dataclasses.replace(QUICK, weights=True, steps=20, warmup=0.25, weight_learning_rate=0.1)
    rates = [float(optimizer.weight_rate(recipe)(step)) for step in (0, 5, 20)]
    np.testing.assert_allclose(rates, [0, 0.1, 0], atol=1e-6)


def test_it_stops_where_nothing_gets_better(embedder):
    recipe = dataclasses.replace(QUICK, steps=50, learning_rate=1e-9, evaluate_every=1, patience=3, penalty=0)
    learned = learn(embedder, TRAINING, VALIDATION, recipe)
    assert learned.steps < 50
    assert learned.steps - learned.best_step == 3


@pytest.mark.slow
def test_a_penalty_holds_temperatures_near_one(embedder):
    free, held = (
        learn(embedder, TRAINING, TRAINING, dataclasses.replace(QUICK, steps=12, penalty=penalty)).temperature
        for penalty in (0.0, 100.0)
    )
    assert np.abs(np.log(held.value)).mean() < 0.5 * np.abs(np.log(free.value)).mean()


@pytest.mark.parametrize("part", ["tree", "progress"])
def test_a_damaged_state_gets_a_sentence(embedder, tmp_path, part):
    learn(embedder, TRAINING, VALIDATION, QUICK, directory=tmp_path / "run")
    files = [file for file in (tmp_path / "run" / "states" / "6" / part).rglob("*") if file.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:7])
    with pytest.raises(InputError, match="the saved state after step 6, cannot be read: it is damaged"):
        learn(embedder, TRAINING, VALIDATION, QUICK, directory=tmp_path / "run")


def test_a_run_that_was_killed_while_its_first_file_was_written_goes_on(embedder, tmp_path):
    left = tmp_path / "run" / ".run.json.abc123.partial"
    left.mkdir(parents=True)
    (left / "run.json").write_text("{")
    assert learn(embedder, TRAINING, VALIDATION, QUICK, directory=tmp_path / "run").steps


def test_two_processes_do_not_learn_in_one_directory(embedder, tmp_path):
    learn(embedder, TRAINING, VALIDATION, dataclasses.replace(QUICK, steps=2), directory=tmp_path / "run")
    with (
        filelock.FileLock(tmp_path / "run" / ".run.json.lock"),
        pytest.raises(OutputError, match="another process learns in"),
    ):
        learn(embedder, TRAINING, VALIDATION, dataclasses.replace(QUICK, steps=2), directory=tmp_path / "run")


def test_a_directory_of_something_else_is_left_alone(embedder, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no run of learning"):
        learn(embedder, TRAINING, VALIDATION, QUICK, directory=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "at least 2"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"penalty": -1.0}, "penalty"),
        ({"form": "none"}, "nothing is to learn"),
        ({"form": "none", "weights": True, "by_length": LogLength(8)}, "form is 'none'"),
        ({"form": "rows"}, "scalar, layers, heads"),
        ({"side": "left"}, "documents"),
        ({"warmup": 2.0}, "from 0 to 1"),
        ({"matryoshka": (36,)}, "fewer than the model's 36"),
        ({"matryoshka": (0,)}, "matryoshka"),
        ({"matryoshka": [8, 4, 8]}, "a matryoshka dimension is there twice"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"train_length": 2}, "at least 3"),
        ({"train_length": 0}, "train_length"),
        ({"train_length": 42}, "42 is more than the 41"),
    ],
)
def test_a_senseless_recipe_is_refused(embedder, change, message):
    with pytest.raises(InputError, match=message):
        learn(embedder, TRAINING, VALIDATION, dataclasses.replace(QUICK, **change))


def test_pairs_that_teach_nothing_are_refused():
    with pytest.raises(InputError, match="at least two"):
        Pairs("corpus", ("a", "b"), ("the same", "the same"))


def test_other_answers_and_copies_are_no_negatives():
    own = Pairs("corpus", ("q", "q", "r", "s"), ("a", "b", "c", "a"), (("c",), (), ("x",), ()))
    excluded = own.excluded([0, 1, 2, 3])
    #       a      b      c      a      c      x
    assert excluded.tolist() == [
        [False, True, False, True, False, False],
        [True, False, False, True, False, False],
        [False, False, False, False, True, False],
        [True, False, False, False, False, False],
    ]


def test_queries_of_one_text_answer_each_other():
    own = Pairs("corpus", ("What is it?", "what  is it?", "r"), ("a", "b", "c"))
    assert own.excluded([0, 1, 2])[:2].tolist() == [[False, True, False], [True, False, False]]


def test_a_copy_of_the_query_or_of_its_answer_is_no_negative():
    own = Pairs("corpus", ("q", "r", "s"), ("An  answer", "Q", "c"), (("an answer",), ("\ufb01n",), ("fin",)))
    assert own.excluded([0, 1, 2]).tolist() == [
        [False, True, False, True, False, False],
        [False] * 6,
        [False] * 6,
    ]
    with pytest.raises(InputError, match="at least two"):
        Pairs("corpus", ("a", "b"), ("the same", "The same "))


@pytest.mark.slow
def test_the_number_of_hard_negatives_compiles_nothing_anew(embedder):
    some = pairs(24, 0, hard=2)
    uneven = Pairs("corpus", some.queries, some.documents, tuple(n[: i % 3] for i, n in enumerate(some.negatives)))
    before = training._loss_and_gradient._cache_size()
    learn(embedder, [uneven], VALIDATION, dataclasses.replace(QUICK, matryoshka=[7]))
    assert training._loss_and_gradient._cache_size() - before <= 2


@pytest.mark.slow
def test_texts_that_fill_up_change_no_loss():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4, 8)).astype(np.float32), rng.standard_normal((6, 8)).astype(np.float32)
    excluded = np.zeros((4, 6), np.bool_)
    filled = training._filled(*vectors, excluded)
    assert filled[1].shape == (8, 8)
    for cosine in (True, False):
        both = [
            jax.value_and_grad(contrastive, argnums=(0, 1))(*x, 5.0, cosine=cosine)
            for x in ((*vectors, excluded), filled)
        ]
        np.testing.assert_allclose(both[1][0], both[0][0], rtol=1e-6)
        np.testing.assert_allclose(both[1][1][0], both[0][1][0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(both[1][1][1][:6], both[0][1][1], rtol=1e-5, atol=1e-7)
        assert not np.asarray(both[1][1][1][6:]).any()


def test_every_epoch_has_every_full_batch_once():
    steps = list(itertools.islice(schedule([10, 3, 25], 4, seed=0), 9))
    assert sorted(step.corpus for step in steps) == [0, 0, 1, *[2] * 6]
    for corpus, size in ((0, 10), (1, 3), (2, 25)):
        chosen = np.concatenate([step.chosen for step in steps if step.corpus == corpus])
        assert len(set(chosen)) == len(chosen) == max(size // 4 * 4, min(size, 4))
