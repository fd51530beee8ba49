"""On which nodes of a cluster a trial can run: what it asks Ray for, and whether any node has it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.errors import UserError, suggest
from orchestrator.spec.resources import ACCELERATOR, Resources

MARK = 0.001
"""How much of a node's accelerator mark a trial takes: Ray's own amount, so that the mark never runs out."""
ALWAYS_THERE = ("memory", "object_store_memory", "node:")
"""Resources of Ray's own, which say nothing about which trials a node is for."""

Amounts = Mapping[str, float]
"""Resources by Ray's names for them."""


def wanted(resources: Resources) -> dict[str, float]:
    """What a trial takes of one node."""
    amounts = {"CPU": resources.cpu, "GPU": resources.gpu}
    if resources.accelerator_type is not None:
        amounts[ACCELERATOR + resources.accelerator_type] = MARK
    return {name: amount for name, amount in (amounts | resources.custom).items() if amount}


def fits(wants: Amounts, node: Amounts) -> bool:
    """Whether an empty node that has all this could hold a trial."""
    return all(node.get(name, 0) >= amount for name, amount in wants.items())


def nodes() -> list[dict[str, float]]:
    """What each living node of the cluster has in all, used or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_fits(resources: Resources) -> None:
    """Refuses resources that no node has: Ray would wait for them for ever.

    Raises:
        UserError: no node of the cluster can ever hold a trial.
    """
    if problem := misfit(resources, nodes()):
        raise UserError(problem)


def misfit(resources: Resources, have: Sequence[Amounts]) -> str | None:
    """Why none of the nodes can hold a trial; None where one can."""
    wants = wanted(resources)
    if any(fits(wants, node) for node in have):
        return None
    # a trial without GPU is no trial that says nothing of them: name both amounts, as for the nodes
    asked = described({"CPU": 0, "GPU": 0} | wants)
    kinds = Counter(described(node) for node in have)
    there = "; ".join(f"{count} x {text}" if count > 1 else text for text, count in kinds.items())
    return f"resources: a trial wants {asked} on one node; nodes have: {there}{_hint(wants, have)}"


def _hint(wants: Amounts, have: Iterable[Amounts]) -> str:
    """The right name where a trial asks for a kind of accelerator or a custom resource that no node has."""
    known = {name for node in have for name in node}
    for name in wants:
        if name in known or name in {"CPU", "GPU"}:
            continue
        if name.startswith(ACCELERATOR):  # H100 and A100 are near as words only: a name is mistaken in its case at most
            same = [other for other in known if other.lower() == name.lower()]
            right = f"; did you mean '{same[0].removeprefix(ACCELERATOR)}'?" if same else ""
            return f". No node is of type '{name.removeprefix(ACCELERATOR)}'{right}"
        return f". No node has '{name}'; {suggest(name, filter(_is_custom, known))}"
    return ""


def _is_custom(name: str) -> bool:
    return name not in {"CPU", "GPU"} and not name.startswith((ACCELERATOR, *ALWAYS_THERE))


def described(amounts: Amounts) -> str:
    """Amounts as people say them: `8 CPU, 1 GPU, type H100 and 2 fast_disk`."""
    parts = [f"{amounts.get(name, 0):g} {name}" for name in ("CPU", "GPU")]
    parts += [f"type {name.removeprefix(ACCELERATOR)}" for name in sorted(amounts) if name.startswith(ACCELERATOR)]
    parts += [f"{amounts[name]:g} {name}" for name in sorted(amounts) if _is_custom(name)]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
