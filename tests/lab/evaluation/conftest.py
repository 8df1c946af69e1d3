"""Fewer draws where each is costly, so that the tests are quick."""

import pytest

from tsjax.lab.evaluation import bootstrap


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(bootstrap, "_RESAMPLES_IF_COSTLY", 60)
