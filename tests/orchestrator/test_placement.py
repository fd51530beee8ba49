"""Which nodes can hold a trial, and what is said where none can."""

from typing import Any

import pytest

from orchestrator.placement import misfit, wanted
from orchestrator.spec.resources import Resources

PLAIN = {"CPU": 8.0, "memory": 3e9, "object_store_memory": 1e9, "node:10.0.0.1": 1.0}
SAME = PLAIN | {"memory": 4e9, "node:10.0.0.2": 1.0}
A100 = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:A100": 1.0, "fast_disk": 2.0, "node:10.0.0.3": 1.0}
HEAD = {"node:__internal_head__": 1.0, "memory": 1e9}
NODES = [HEAD, PLAIN, SAME, A100]


def test_what_ray_is_asked_for() -> None:
    assert wanted(Resources(cpu=2)) == {"CPU": 2}
    asked = wanted(Resources(cpu=2, gpu=0.25, accelerator_type="H100", custom={"lane": 1}))
    assert asked == {"CPU": 2, "GPU": 0.25, "accelerator_type:H100": 0.001, "lane": 1}


@pytest.mark.parametrize(
    "resources",
    [
        {"cpu": 16},
        {"gpu": 0.25},
        {"gpu": 4, "accelerator_type": "A100"},
        {"accelerator_type": "A100"},
        {"custom": {"fast_disk": 0.5}},
        {"cpu": 0.5, "custom": {"node:10.0.0.1": 0.001}},
    ],
    ids=str,
)
def test_one_node_has_it_all(resources: dict[str, Any]) -> None:
    assert misfit(Resources(**resources), NODES) is None


@pytest.mark.parametrize(
    ("resources", "asked", "hint"),
    [
        ({"cpu": 17}, "17 CPU and 0 GPU", ""),
        ({"gpu": 5}, "1 CPU and 5 GPU", ""),
        (
            {"cpu": 1, "gpu": 0.5, "accelerator_type": "H100"},
            "1 CPU, 0.5 GPU and type H100",
            "No node is of type 'H100'",
        ),
        ({"accelerator_type": "a100"}, "1 CPU, 0 GPU and type a100", "No node is of type 'a100'; did you mean 'A100'?"),
        (
            {"custom": {"fastdisk": 1}},
            "1 CPU, 0 GPU and 1 fastdisk",
            "No node has 'fastdisk'; did you mean 'fast_disk'?",
        ),
        ({"custom": {"fast_disk": 3}}, "1 CPU, 0 GPU and 3 fast_disk", ""),
    ],
    ids=str,
)
def test_no_node_has_it(resources: dict[str, Any], asked: str, hint: str) -> None:
    there = "0 CPU and 0 GPU; 2 x 8 CPU and 0 GPU; 16 CPU, 4 GPU, type A100 and 2 fast_disk"
    said = misfit(Resources(**resources), NODES)
    assert said == f"resources: a trial wants {asked} on one node; nodes have: {there}{'. ' if hint else ''}{hint}"


def test_two_nodes_that_have_half_of_it_each() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert misfit(Resources(cpu=4, gpu=1), nodes) is not None
