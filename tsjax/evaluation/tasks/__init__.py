"""What a model's vectors are tried on, a file a task: retrieval, STS, classification, clustering."""

from tsjax.evaluation.tasks.classification import Classification
from tsjax.evaluation.tasks.clustering import Clustering
from tsjax.evaluation.tasks.retrieval import Retrieval
from tsjax.evaluation.tasks.sts import STS
from tsjax.evaluation.tasks.task import Encoder, Task, Vectors

__all__ = ["STS", "Classification", "Clustering", "Encoder", "Retrieval", "Task", "Vectors"]
