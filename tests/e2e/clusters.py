"""A Ray cluster of several nodes on this machine, with whatever resources a test says that they have."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NODE = "FLATSWEEP_TEST_NODE"
"""In the environment of each node's workers: the node's name."""


@contextlib.contextmanager
def cluster(**nodes: Mapping[str, Any]) -> Iterator[str]:
    """A cluster of a head, which runs no trials, and one node for each name; gives its address.

    Args:
        nodes: `num_cpus`, `num_gpus` and `resources` of each node.
    """
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="fs-")  # short: sockets lie in it
    made = Cluster()
    try:
        made.add_node(num_cpus=0, include_dashboard=False, temp_dir=folder)
        for name, amounts in nodes.items():
            made.add_node(env_vars={NODE: name}, object_store_memory=100 * 2**20, **amounts)
        made.wait_for_nodes()
        yield str(made.address)
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def node_of(pid: int) -> str:
    """Name of the node that a living worker belongs to."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.partition("=")[::2] for entry in entries).get(NODE, "")
