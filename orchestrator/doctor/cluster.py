"""Ray: whether one starts here, or the cluster answers, and whether a trial of the sweep fits on a node."""

from pathlib import Path
from typing import Any

from orchestrator.doctor.finding import Finding, Level, Question, first_line
from orchestrator.errors import UserError
from orchestrator.placement import check_fits
from orchestrator.preflight import address_problem
from orchestrator.ray_session import ray_session
from orchestrator.spec.resources import Resources

CHECK = "ray"


def findings(question: Question) -> list[Finding]:
    """One line for Ray, one for whether a trial fits."""
    if problem := address_problem(question.address):
        return [Finding(CHECK, Level.PROBLEM, problem, "start the cluster, or give its right --address")]
    where = f"Ray at {question.address}" if question.address else "a local Ray starts"
    try:
        with ray_session(question.address or "local", Path(question.scratch)):
            import ray

            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            found = [Finding(CHECK, Level.OK, f"{where}: {_sizes(nodes)}")]
            if question.sweep is not None:
                found.append(_fits(question.sweep.resources, nodes))
    except Exception as error:  # a Ray that does not come up raises this very class
        mend = "start the cluster with the same Ray and Python, or give its right --address"
        if question.address is None:
            mend = "look at the load, free memory and disk of this machine; `ray start --head` says more"
        return [
            Finding(CHECK, Level.PROBLEM, f"{where if question.address else 'no local Ray'}: {first_line(error)}", mend)
        ]
    return found


def _fits(resources: Resources, nodes: list[dict[str, Any]]) -> Finding:
    try:
        check_fits(resources)
    except UserError as error:
        return Finding(CHECK, Level.PROBLEM, str(error), "smaller `resources` in the sweep file, or larger nodes")
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    at_once = sum(
        min(int(node.get(name, 0) / amount) for name, amount in wanted.items() if amount) for node in nodes
    )  # a trial without CPU and GPU is no sweep's: the sweep file refuses it
    return Finding(CHECK, Level.OK, f"a trial fits ({resources.cpu:g} CPU, {resources.gpu:g} GPU): {at_once} at once")


def _sizes(nodes: list[dict[str, Any]]) -> str:
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    count = f"{len(nodes)} nodes, " if len(nodes) > 1 else ""
    return f"{count}{total['CPU']:g} CPU, {total['GPU']:g} GPU, {total['memory'] / 2**30:.3g} GiB of memory"
