"""The type checker's verdicts on good and bad calls."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_type_checker_takes_the_good_calls_and_refuses_the_bad(tmp_path):
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    process = subprocess.run(
        [*command, "--cache-dir", str(tmp_path), "tests/typing/calls.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
