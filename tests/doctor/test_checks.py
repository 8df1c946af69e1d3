"""Tests of the checks themselves: they pass correct programs, and fail on broken programs, kernels and references.

`make test` and `make test-latest` run all checks by `tsjax doctor`; these tests run the cheapest.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from scripts.verify import doctor_reference
from tsjax.doctor import networks, patterns, surroundings
from tsjax.doctor.models import LENGTHS, MODELS, expected, parameters, temperature, token_ids
from tsjax.model.compiling import jit
from tsjax.model.kernels import dispatch as attention

DEVICE = jax.local_devices()[0]


def _checks(make, *words):
    found = [check for check in make(DEVICE) if all(word in check.name for word in words)]
    assert found
    return found


@pytest.mark.parametrize("words", [("32,769", "float32"), ("spread out", "float32"), ("gradient", "60", "float32")])
def test_operations_as_this_package_compiles_them_are_right(words):
    for check in _checks(patterns.pattern_checks, *words):
        if check.ours:
            assert check.run().status == "ok", check.name


def test_a_compiler_that_is_wrong_beyond_a_border_is_found(monkeypatch):
    def wrong(function, **options):
        def run(*arguments):
            result = np.array(function(*arguments))
            result.reshape(-1)[-1] *= 1.01
            return result

        return run

    for name, module in (("ours", patterns), ("plain", jax)):
        check = next(
            check
            for check in _checks(patterns.pattern_checks, "squares", "32,769", "float32")
            if check.ours == (name == "ours")
        )
        with monkeypatch.context() as patched:
            patched.setattr(module, "jit", wrong)
            found = check.run()
        assert (found.status, bool(found.advice)) == ("fail" if name == "ours" else "warn", True)


def test_every_program_of_the_package_is_compiled_by_its_own_jit():
    """The single products that a benchmark measures are exempt."""
    package = Path(patterns.__file__).parent.parent
    by_jax = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "jax.jit" in path.read_text(encoding="utf-8").replace("`jax.jit`", "").replace("``jax.jit``", "")
    }
    assert by_jax == {"model/compiling.py", "bench/operations.py", "doctor/patterns.py"}


def test_the_option_leaves_no_product_together_with_a_sum():
    """The rewrite that goes wrong fuses the two into one operation, whose name is in the compiled program."""
    x = np.ones((5, 60, 60), np.float32)
    program = jit(lambda x: (x @ jax.numpy.full_like(x, 0.5) * x).sum(-1))
    np.testing.assert_allclose(program(x), np.full((5, 60), 1800), rtol=1e-6)
    compiled = program.lower(x).compile().as_text()
    [library] = [line for line in compiled.splitlines() if "%ynn_fusion" in line.partition("=")[0]] or [""]
    assert "reduce_sum" not in library


@pytest.mark.parametrize("name", MODELS)
def test_the_stored_vectors_are_those_of_the_reference(name):
    """Only texts of up to 129 tokens are compared; the script computed the longer ones in the same way."""
    config = MODELS[name]
    weights = {key: value.astype(np.float64) for key, value in parameters(config).items()}
    for kind in ("one", "by head"):
        tau = temperature(kind, config).astype(np.float64)
        for text, length, stored in zip(token_ids(), LENGTHS, expected(name, kind), strict=True):
            if length <= 129:
                tokens = doctor_reference._encoded(config.encoder, weights, text, tau)
                np.testing.assert_allclose(doctor_reference._pooled(config, tokens), stored, rtol=0, atol=1e-12)


def _padded(name):
    [check] = _checks(networks.network_checks, "float32", "by xla", f": {name}")[:1]
    return check


def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    monkeypatch.setattr(networks, "token_ids", lambda: token_ids()[-6:])  # These are the shortest, which compile fast.
    scaled = attention.scaled
    with monkeypatch.context() as patched:
        patched.setattr(attention, "scaled", lambda *arguments: scaled(*arguments) * 1.001)
        jax.clear_caches()
        assert _padded("absolute positions").run().status == "fail"
    jax.clear_caches()
    assert _padded("absolute positions").run().status == "ok"


def test_a_cache_that_cannot_be_used_is_found(tmp_path):
    (tmp_path / "file").touch()
    assert surroundings._cache(lambda: tmp_path / "file" / "cache").status == "fail"
    assert surroundings._cache(lambda: tmp_path / "new" / "cache").status == "ok"
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    assert surroundings._cache(lambda: tmp_path / "open").status == "warn"


def test_every_kind_of_model_is_told_its_kernel():
    found = [check.run() for check in surroundings.surroundings_checks()]
    assert {one.status for one in found} <= {"ok", "warn"}
    assert sum("windows for every model" in one.detail for one in found) == 3
