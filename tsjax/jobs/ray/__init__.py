"""Ray: a job's shards made by actors on a cluster, and a callable class for pipelines of Ray Data of one's own.

`embed.Embed` is for ``map_batches``; `running.RayRunner` is the engine of ``tsjax batch --engine ray``. Ray carries
descriptions of pieces of work, never texts or vectors: the actors read the inputs and write the shards themselves.
"""

from tsjax.integrations.ray_data import Embed

__all__ = ["Embed"]
