"""Measurement of length collapse: formulas over arrays, a probe into the network, a study of both, plots and a report.

>>> from tsjax.lab.analysis import study_collapse
>>> found = study_collapse(tsjax.load(), texts, temperatures=(1.0, 0.9))
>>> found.vectors[0].mean_cosine

Names are resolved on first use, so that the formulas do not import JAX and only the plots need matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsjax.lab.analysis.collapse import Collapse, study_collapse
    from tsjax.lab.analysis.measures import (
        attention_entropy,
        distance_to_centroid,
        distance_to_centroid_change,
        effective_rank,
        filter_rate,
        high_frequency_share,
        mean_cosine_between,
        mean_pairwise_cosine,
        pairwise_cosine,
        pairwise_cosine_change,
    )
    from tsjax.lab.analysis.probe import Probe, probe_text
    from tsjax.lab.analysis.report import write_report

__all__ = [
    "Collapse",
    "Probe",
    "attention_entropy",
    "distance_to_centroid",
    "distance_to_centroid_change",
    "effective_rank",
    "filter_rate",
    "high_frequency_share",
    "mean_cosine_between",
    "mean_pairwise_cosine",
    "pairwise_cosine",
    "pairwise_cosine_change",
    "probe_text",
    "study_collapse",
    "write_report",
]

_HOME = {
    "Collapse": "collapse",
    "study_collapse": "collapse",
    "Probe": "probe",
    "probe_text": "probe",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tsjax.lab.analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tsjax.lab.analysis.{_HOME.get(name, 'measures')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
