"""Settings for fast tests: fewer bootstrap draws where each is costly."""

import pytest

from tsjax.lab.evaluation import bootstrap


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(bootstrap, "_RESAMPLES_IF_COSTLY", 60)
