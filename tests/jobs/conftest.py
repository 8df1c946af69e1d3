"""Fixtures that most tests of jobs start with."""

import pytest

from tests.support import batch_jobs
from tsjax.jobs.output.directory import Output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return batch_jobs.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def done(model, corpus, tmp_path_factory):
    """Return an output of the module's corpus in shards of 16, not yet loaded anywhere."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title")) == 0
    return Output(output)
