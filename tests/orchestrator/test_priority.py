"""Which sweep goes first, from tables as Ray gives them; with a real cluster: tests/e2e/test_sharing.py."""

from typing import Any

import pytest

from orchestrator.priority import Claim, claims, standing_in_the_way

LOW, HIGH, OTHER = "01000000", "02000000", "03000000"
NAMES = {HIGH: (5, "high"), OTHER: (0, "other")}


def group(state: str, **wants: float) -> dict[str, Any]:
    return {"state": state, "bundles": {0: wants}, "name": ""}


def group_id(job: str, number: int = 0) -> str:
    """As Ray makes them: the driver's job id at the end."""
    return f"{number:028x}{job}"


def claim(**wants: float) -> Claim:
    return Claim("g", "high", 5, tuple(wants.items()))


@pytest.mark.parametrize(("state", "waits"), [("PENDING", True), ("RESCHEDULING", True), ("CREATED", False)])
def test_what_waits_is_a_claim(state: str, waits: bool) -> None:
    found = claims({group_id(HIGH): group(state, CPU=1, GPU=0.5)}, NAMES, 0)
    expected = [Claim(group_id(HIGH), "high", 5, (("CPU", 1), ("GPU", 0.5)))]
    assert found == (expected if waits else [])


def test_removed_groups_claim_nothing() -> None:
    assert claims({group_id(HIGH): group("REMOVED", CPU=1)}, NAMES, 0) == []


@pytest.mark.parametrize(("above", "number"), [(4, 2), (5, 0), (6, 0), (-1, 3)])
def test_only_sweeps_above_count(above: int, number: int) -> None:
    table = {group_id(job, index): group("PENDING", CPU=1) for index, job in enumerate((HIGH, HIGH, OTHER))}
    assert len(claims(table, NAMES, above)) == number


def test_jobs_that_are_no_sweeps_do_not_count() -> None:
    assert claims({group_id("09000000"): group("PENDING", CPU=1)}, NAMES, -100) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "contested"),
    [
        ({"CPU": 1}, {"CPU": 1}, True),
        ({"CPU": 1, "GPU": 0.5}, {"CPU": 1, "GPU": 1}, True),
        ({"CPU": 1}, {"CPU": 1, "GPU": 1}, True),  # a trial without GPU may sit on a node that has one
        ({"CPU": 9}, {"CPU": 1, "GPU": 1}, False),  # this one fits on the large node alone, the other there not
        ({"CPU": 1, "accelerator_type:T4": 0.001}, {"CPU": 1, "accelerator_type:H100": 0.001}, False),
        ({"CPU": 1}, {"CPU": 99}, False),  # no node will ever hold the other one
    ],
    ids=str,
)
def test_in_the_way_only_where_a_node_could_hold_either(
    mine: dict[str, float], theirs: dict[str, float], contested: bool
) -> None:
    nodes = [
        {"CPU": 16.0},
        {"CPU": 4.0, "GPU": 1.0, "accelerator_type:H100": 1.0},
        {"CPU": 4.0, "GPU": 1.0, "accelerator_type:T4": 1.0},
    ]
    assert bool(standing_in_the_way([claim(**theirs)], mine, nodes)) == contested
