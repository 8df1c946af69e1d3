"""How good a model's vectors are at a task, at which temperature, and whether the difference is more than noise.

>>> from tsjax.evaluation import compare, grid, read_retrieval, sweep
>>> result = sweep(tsjax.load(), read_retrieval("folder"), grid([1, 0.9, 0.8]))
>>> result.chosen.temperature
"""

from tsjax.evaluation.bootstrap import Interval
from tsjax.evaluation.candidates import Candidate, grid
from tsjax.evaluation.readers import read_classification, read_clustering, read_retrieval, read_sts
from tsjax.evaluation.sweeping import Compared, InBucket, Scored, SweepResult, compare, sweep
from tsjax.evaluation.tasks import STS, Classification, Clustering, Retrieval
from tsjax.evaluation.verdict import verdict

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
