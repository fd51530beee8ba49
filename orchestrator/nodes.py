"""Asks the nodes of a cluster, before anything starts, whether a trial could run there."""

import uuid
from typing import Any

from orchestrator.addresses import completed, without_secret
from orchestrator.errors import UserError
from orchestrator.placement import fits
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from orchestrator.versions import Code, own_code
from workers.storage import Folder

ANSWER_SECONDS = 300.0
"""A node starts a fresh process for its answer, which imports MLflow: that takes minutes where it is busy."""


def check_nodes(sweep: Sweep, wanted: dict[str, float]) -> None:
    """Refuses a cluster where a node that may get trials cannot run them as the driver would.

    Each such node must see the storage (it looks for a file that the driver has just written), reach the tracking
    store and have the driver's code.

    Args:
        sweep: with absolute paths.
        wanted: what a trial needs, by Ray's name of the resource; nodes without it get no trials and are not asked.

    Raises:
        UserError: with every problem, one line a node.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder, name = Folder(sweep.storage) / sweep.name, f".probe-{uuid.uuid4().hex}"
    fitting = [node for node in ray.nodes() if node["Alive"] and fits(wanted, node["Resources"])]
    folder.write(name, name.encode())
    try:
        ask = ray.remote(node_problems)
        asked = {
            node["NodeManagerAddress"]: ask.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(folder), name, without_secret(tracking_uri(sweep)), own_code().model_dump())
            for node in fitting
        }
        problems = []
        for address, answer in asked.items():
            try:
                problems += [f"node {address}: {problem}" for problem in ray.get(answer, timeout=ANSWER_SECONDS)]
            except GetTimeoutError:
                problems.append(f"node {address}: no answer in {ANSWER_SECONDS:.0f} s")
            except RayError as error:
                problems.append(f"node {address}: {_reason(error)}")
    finally:
        folder.delete(name)
    if problems:
        raise UserError("\n".join(problems))


def node_problems(folder: str, probe: str, tracking: str, driver: dict[str, Any]) -> list[str]:
    """What keeps this node from running trials; called on it.

    Args:
        folder: of the sweep.
        probe: name of the file there that the driver has written; it holds its own name.
        tracking: URI of the store.
        driver: the `Code` that the driver runs.
    """
    problems = []
    here, there = own_code(), Code.model_validate(driver)
    if here.digest != there.digest:
        problems.append(f"has flatsweep {here}, the driver {there}: install the same, or submit with --wheel")
    try:
        seen = Folder(folder).read(probe)
    except OSError:
        seen = b""
    if seen != probe.encode():
        problems.append(f"storage: {folder} is not the driver's: mount one shared folder on every node, or use s3://")
    try:
        Store(completed(tracking), "flatsweep-probe", "")
    except UserError as error:
        problems.append(str(error))
    return problems


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if missing := next((line for line in lines if "No module named" in line), None):
        return f"{missing.strip()}: install flatsweep there, or submit with --wheel"
    return (lines or [type(error).__name__])[-1][:300]
