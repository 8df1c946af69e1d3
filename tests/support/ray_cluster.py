"""A Ray cluster of several nodes, held by a separate process: starting a node forks, which JAX's threads forbid here.

Run as a script, it reads one command per line: ``add``, ``kill`` with the id of a node to keep, or the end.
"""

import os
import subprocess
import sys
from pathlib import Path

# Each node has one CPU, and so one actor, and little memory for objects, which are small.
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}

_ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "JAX_PLATFORMS": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # The cluster does not watch the memory of the machine.
}


class NodesOfACluster:
    """A head without CPUs, and nodes of one CPU each.

    Attributes:
        address: the address for `ray.init`.
    """

    def __init__(self, nodes):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )
        self.address = self._answer()
        self._wanted, self._nodes = nodes, 0
        self.mend()

    def kill_node(self, but):
        """Kill a node, as by kill -9, but not this one: a driver may be attached to any node of its address."""
        self._ask(f"kill {but}")
        self._nodes -= 1

    def mend(self):
        """Start the killed nodes again."""
        while self._nodes < self._wanted:
            self._ask("add")
            self._nodes += 1

    def close(self):
        """Stop all nodes."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, command):
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self):
        """Return the rest of the next line that is meant for this process; Ray prints others."""
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].rstrip("\n")
        raise RuntimeError("the cluster's process has ended")


def _serve():
    from ray.cluster_utils import Cluster

    # A dead node is noticed within seconds.
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": checks}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = []
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        if line == "add\n":
            nodes.append(cluster.add_node(**NODE))
        else:
            place = next(place for place, node in enumerate(nodes) if node.node_id not in line)
            cluster.remove_node(nodes.pop(place), allow_graceful=False)
        print("> done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
