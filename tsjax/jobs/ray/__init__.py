"""The Ray integration: computing a job's shards with actors on a cluster, and a callable class for Ray Data pipelines.

`Embed` is for ``map_batches``. `driver.RayRunner` is the engine of ``tsjax batch --engine ray``. Ray transfers only
descriptions of pieces of work, never texts or vectors: the actors read the inputs and write the shards themselves.
"""

from tsjax.integrations.ray_data import Embed

__all__ = ["Embed"]
