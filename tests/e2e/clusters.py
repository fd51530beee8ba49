"""A Ray cluster of several nodes on this machine, with whatever resources a test says that they have."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

NODE = "FLATSWEEP_TEST_NODE"
"""In the environment of each node's workers: the node's name."""


@contextlib.contextmanager
def head() -> Iterator[Any]:
    """A cluster of a head that runs no trials; takes more nodes by `add_node`.

    Its files are in a folder of its own, as is the address that Ray leaves in a common place for whoever comes next.
    """
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="fs-")  # short: sockets lie in it
    Path(folder, "ray").mkdir()
    made = Cluster()
    try:
        with _common_place(folder):
            made.add_node(num_cpus=0, include_dashboard=False, temp_dir=folder)
        yield made
    finally:
        with _common_place(folder):
            made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _common_place(folder: str) -> Any:
    return mock.patch.dict(os.environ, RAY_TMPDIR=folder)


@contextlib.contextmanager
def cluster(**nodes: Mapping[str, Any]) -> Iterator[str]:
    """A cluster of a head, which runs no trials, and one node for each name; gives its address.

    Args:
        nodes: `num_cpus`, `num_gpus` and `resources` of each node.
    """
    with head() as made:
        for name, amounts in nodes.items():
            add_node(made, name, **amounts)
        made.wait_for_nodes()
        yield str(made.address)


def add_node(made: Any, name: str, **amounts: Any) -> Any:
    """One more node, whose workers know its name."""
    return made.add_node(env_vars={NODE: name}, object_store_memory=100 * 2**20, **amounts)


def node_of(pid: int) -> str:
    """Name of the node that a living worker belongs to."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.partition("=")[::2] for entry in entries).get(NODE, "")
