"""Evaluation of a model's vectors on a task: the best temperature, and whether its gain is more than noise.

>>> from tsjax.lab.evaluation import compare, grid, read_retrieval, sweep
>>> result = sweep(tsjax.load(), read_retrieval("folder"), grid([1, 0.9, 0.8]))
>>> result.chosen.temperature
"""

from tsjax.lab.evaluation.bootstrap import Interval
from tsjax.lab.evaluation.candidates import Candidate, grid
from tsjax.lab.evaluation.readers import read_classification, read_clustering, read_retrieval, read_sts
from tsjax.lab.evaluation.sweeping import Compared, InBucket, Scored, SweepResult, compare, sweep
from tsjax.lab.evaluation.tasks import STS, Classification, Clustering, Retrieval
from tsjax.lab.evaluation.verdict import verdict

__all__ = [
    "STS",
    "Candidate",
    "Classification",
    "Clustering",
    "Compared",
    "InBucket",
    "Interval",
    "Retrieval",
    "Scored",
    "SweepResult",
    "compare",
    "grid",
    "read_classification",
    "read_clustering",
    "read_retrieval",
    "read_sts",
    "sweep",
    "verdict",
]
