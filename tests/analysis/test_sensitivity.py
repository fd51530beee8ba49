"""Leaving out one method at a time, against doing so by hand."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.correlation import correlate
from tests.analysis.tables import MEASURE, TARGET, grid

METHODS = ("at", "at(steps=14)", "trades(beta=6)", "mart")


def found_in(table):
    return correlate(table, [MEASURE], [TARGET], resamples=5).pairs[0].sensitivity


def test_all_variants_of_a_method_are_left_out_together():
    table = grid(METHODS, ["none", "awp"], seeds=3)
    got = found_in(table)
    assert [one.method for one in got.without] == ["at", "trades", "mart"]
    assert [one.networks for one in got.without] == [12, 18, 18]
    for one in got.without:
        kept = table[table["method_name"] != one.method]
        expected = [
            f(kept[MEASURE], kept[TARGET]).statistic for f in (stats.pearsonr, stats.spearmanr, stats.kendalltau)
        ]
        assert [one.pearson, one.spearman, one.kendall] == pytest.approx(expected)
    taus = [one.kendall for one in got.without]
    assert (got.low, got.high) == (min(taus), max(taus))


def test_the_method_that_makes_the_correlation_is_named():
    """Nothing within methods; `mart` alone has both a large measure and a large target."""
    table = grid(METHODS, seeds=5)
    apart = 50.0 * (table["method_name"] == "mart")
    table[MEASURE], table[TARGET] = table[MEASURE] + apart, table[TARGET] + apart
    got = found_in(table)
    assert got.driver == "mart"
    assert got.low < 0.2 < got.high


def test_one_method():
    got = found_in(grid(["at", "at(steps=3)", "at(steps=7)"], seeds=2))
    assert (got.low, got.reason) == (None, "there is one method only")


def test_what_has_no_coefficient_left_is_none():
    table = grid(["at", "mart"], seeds=3)
    table.loc[table["method"] == "at", MEASURE] = 1.0
    got = found_in(table)
    assert {one.method: one.kendall is None for one in got.without} == {"at": False, "mart": True}
    assert got.driver == "at" and got.low == got.high


def test_nothing_left_without_any_method():
    table = grid(["at", "mart"], seeds=2)
    got = found_in(table)
    assert got.low is None and "no coefficient is left" in got.reason
    assert np.isfinite(correlate(table, [MEASURE], [TARGET], resamples=5).pairs[0].kendall.value)
