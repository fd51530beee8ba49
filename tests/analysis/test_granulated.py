"""Psi against a loop over the grid, and what axes are."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis import axes
from orchestrator.analysis.axes import pairs_within, parsed_setting, varied_axes
from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.granulated import granulated, groups_along
from tests.analysis.tables import MEASURE, TARGET, grid

AXES = ("method", "regularizer", "setting")


def psi_of(table):
    return correlate(table, [MEASURE], [TARGET], resamples=5).pairs[0].granulated


def brute_force(table, names):
    """psi of each axis from scipy's tau in every group of rows that are equal in everything else."""
    found = {}
    for name in names:
        others = [other for other in (*names, "seed", "checkpoint") if other != name]
        taus, constant, single = [], 0, 0
        for _, group in table.groupby(others):
            if len(group) < 2:
                single += 1
            elif group[MEASURE].nunique() == 1 or group[TARGET].nunique() == 1:
                constant += 1
            else:
                taus.append(stats.kendalltau(group[MEASURE], group[TARGET]).statistic)
        found[name] = (np.mean(taus) if taus else None, len(taus), constant, single)
    return found


@pytest.mark.parametrize("levels", [0, 2])
def test_psi_is_that_of_a_loop_over_groups(levels):
    table = grid(["at", "trades(beta=1)", "trades(beta=6)", "mart"], ["none", "awp"], ["", "lr=0.2", "lr=0.3"], 3)
    if levels:  # many ties
        for name in (MEASURE, TARGET):
            table[name] = np.random.default_rng(1).integers(0, levels, size=len(table))
    table = table.sample(frac=0.8, random_state=0).rename(columns={"setting": "setting"})  # a grid with holes
    got, expected = psi_of(table), brute_force(table, AXES)
    assert [axis.axis for axis in got.axes] == ["method", "regularizer", "lr"]
    for axis, (psi, groups, constant, single) in zip(got.axes, expected.values(), strict=True):
        assert (axis.groups, axis.constant, axis.single) == (groups, constant, single)
        assert axis.psi == pytest.approx(psi)
    assert got.psi == pytest.approx(np.mean([psi for psi, *_ in expected.values()]))
    assert sum(axis.single for axis in got.axes) > 0


def test_one_axis_alone_cannot_carry_it():
    """The target follows the measure along the method and against it along the regularizer: tau 0.5, Psi 0."""
    table = grid(["a", "b", "c", "d"], ["x", "y", "z"], seeds=2)
    method, regularizer = (pd.factorize(table[name])[0].astype(float) for name in ("method", "regularizer"))
    table[MEASURE] = 10 * method + regularizer
    table[TARGET] = 10 * method - regularizer
    pair = correlate(table, [MEASURE], [TARGET], resamples=5).pairs[0]
    assert [axis.psi for axis in pair.granulated.axes] == [1, -1]
    assert pair.granulated.psi == 0
    assert pair.kendall.value > 0.5


def test_seeds_and_networks_are_held_and_are_no_axes():
    table = grid(["at", "mart"], seeds=3, checkpoints=("last", "best"))
    table[MEASURE] = np.where(table["method"] == "at", 0.0, 1.0) + 5.0 * table["seed"]
    table[TARGET] = np.where(table["method"] == "at", 0.0, 1.0) - 5.0 * table["seed"]
    (axis,) = psi_of(table).axes
    assert (axis.axis, axis.groups, axis.psi) == ("method", 6, 1)


def test_a_cell_and_seed_that_is_there_twice_is_not_compared_with_itself():
    table = grid(["at", "mart"])
    table = pd.concat([table, table.assign(trial_id=["u0", "u1"])], ignore_index=True)
    table[MEASURE], table[TARGET] = [0.0, 1.0, 0.5, 1.5], [0.0, 1.0, -5.0, 9.0]
    assert psi_of(table).psi == 1


def test_nan_in_one_network_leaves_the_others():
    table = grid(["at", "mart", "trades"], seeds=2)
    table.loc[0, MEASURE] = np.nan
    (axis,) = psi_of(table).axes
    taus = [
        stats.kendalltau(group[MEASURE], group[TARGET]).statistic
        for _, group in table.dropna(subset=[MEASURE]).groupby("seed")
    ]
    assert axis.psi == pytest.approx(np.mean(taus))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (grid(["at"], seeds=4), "nothing but the seed is varied"),
        (grid(["at", "mart"], seeds=2, **{MEASURE: 1.0}), "with different values of both"),
    ],
)
def test_without_a_value(table, reason):
    along = groups_along(varied_axes(table), [table["seed"].to_numpy()], len(table))
    got = granulated(table[MEASURE].to_numpy(), table[TARGET].to_numpy(), along)
    assert got.psi is None
    assert reason in got.reason


def test_axes_of_settings():
    table = grid(["at"], ["none"], ["", "lr=0.2", "lr=0.2, milestones=[60, 90]", "model=resnet18"])
    found = {axis.name: [axis.labels[value] for value in axis.values] for axis in varied_axes(table)}
    assert found == {
        "lr": ["usual", "0.2", "0.2", "usual"],
        "milestones": ["usual", "usual", "[60, 90]", "usual"],
        "model": ["usual", "usual", "usual", "resnet18"],
    }


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("", {}),
        ("lr=0.1", {"lr": "0.1"}),
        ("training.lr=0.1, data.name=a=b, c", {"training.lr": "0.1", "data.name": "a=b, c"}),
        ("something else", {"setting": "something else"}),
    ],
)
def test_labels_of_settings(label, found):
    assert parsed_setting(label) == found


def test_every_pair_of_a_group_once():
    groups = np.random.default_rng(0).integers(0, 5, size=40)
    got = [frozenset(pair) for i, j in pairs_within(groups) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    expected = {frozenset((a, b)) for a, b in itertools.combinations(range(40), 2) if groups[a] == groups[b]}
    assert len(got) == len(expected) and set(got) == expected


def test_order_of_values_near_overflow():
    assert axes.order(np.array([1e308, -1e308, np.nan, 2.0]), np.array([-1e308, 1e308, 0, 2])).tolist() == [1, -1, 0, 0]
