"""Tasks to evaluate a model's vectors on, one in each file: retrieval, STS, classification, clustering."""

from tsjax.lab.evaluation.tasks.classification import Classification
from tsjax.lab.evaluation.tasks.clustering import Clustering
from tsjax.lab.evaluation.tasks.retrieval import Retrieval
from tsjax.lab.evaluation.tasks.sts import STS
from tsjax.lab.evaluation.tasks.task import Encoder, Task, Vectors

__all__ = ["STS", "Classification", "Clustering", "Encoder", "Retrieval", "Task", "Vectors"]
