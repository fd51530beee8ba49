"""Coefficients of resamples against scipy on real copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.analysis import bootstrap
from orchestrator.analysis.bootstrap import resampled_coefficients
from orchestrator.analysis.estimates import MAX_UNITS, drawn_units

SCIPY = (stats.pearsonr, stats.spearmanr, stats.kendalltau)


def expected(x, y, copies):
    if len(copies) < 2 or np.ptp(x[copies]) == 0 or np.ptp(y[copies]) == 0:
        return [np.nan] * 3
    return [coefficient(x[copies], y[copies]).statistic for coefficient in SCIPY]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_each_resample_agrees_with_scipy_on_real_copies(data):
    n = data.draw(st.integers(3, 12))
    values = st.lists(st.integers(-3, 3), min_size=n, max_size=n)
    left, right = (np.array([data.draw(values) for _ in range(rows)], dtype=float) for rows in (2, 3))
    cells = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    counts = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1)))
    got = resampled_coefficients(left, right, cells, counts)
    assert got.shape == (3, 2, 3, len(counts))
    for at, count in enumerate(counts):
        copies = np.repeat(np.arange(n), count[cells])
        for i, x in enumerate(left):
            for j, y in enumerate(right):
                np.testing.assert_allclose(got[:, i, j, at], expected(x, y, copies), atol=1e-9)


@pytest.mark.parametrize(("n", "k"), [(120, 4), (90, 30)])
def test_many_networks_with_and_without_ties(n, k):
    generator = np.random.default_rng(0)
    left = np.stack([generator.normal(size=n), generator.integers(0, 9, size=n), generator.normal(size=n) * 1e200])
    right = generator.normal(size=(1, n)).round(1)
    cells = generator.integers(0, k, size=n)
    counts = generator.multinomial(k, np.full(k, 1 / k), size=20)
    got = resampled_coefficients(left, right, cells, counts)
    for at, count in enumerate(counts):
        copies = np.repeat(np.arange(n), count[cells])
        for i, x in enumerate(left):
            x = x / np.abs(x).max()  # scipy's pearsonr overflows
            np.testing.assert_allclose(got[:, i, 0, at], expected(x, right[0], copies), atol=1e-12)


def test_sizes_of_blocks_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(2, 2, 60))
    cells, counts = np.arange(60) // 3, generator.multinomial(20, np.full(20, 0.05), size=50)
    whole = resampled_coefficients(left, right, cells, counts)
    monkeypatch.setattr(bootstrap, "VALUES_AT_ONCE", 100)
    monkeypatch.setattr(bootstrap, "TABLE_VALUES", 500)
    np.testing.assert_allclose(resampled_coefficients(left, right, cells, counts), whole, rtol=1e-12)


def test_ranks_of_blocks_of_neighbours_are_nearly_the_ranks(monkeypatch):
    """With 64 blocks in place of the 1,024 of large tables: far from what the resamples differ by."""
    generator = np.random.default_rng(0)
    common = generator.normal(size=1500)
    left, right = common + generator.normal(size=(2, 1500)), common + generator.normal(size=(1, 1500))
    right[0, :300] = right[0, 0]  # ties are never parted
    cells, counts = np.arange(1500) // 5, generator.multinomial(300, np.full(300, 1 / 300), size=50)
    monkeypatch.setattr(bootstrap, "MAX_BLOCKS", 10**6)
    exact = resampled_coefficients(left, right, cells, counts)
    monkeypatch.setattr(bootstrap, "MAX_BLOCKS", 64)
    coarse = resampled_coefficients(left, right, cells, counts)
    np.testing.assert_array_equal(coarse[[0, 2]], exact[[0, 2]])
    assert 0 < np.abs(coarse[1] - exact[1]).max() < 0.01
    np.testing.assert_allclose(coarse[1].std(axis=-1), exact[1].std(axis=-1), rtol=0.02)


def test_tau_is_left_out_where_it_is_not_wanted():
    left, right = np.random.default_rng(0).normal(size=(2, 3, 30))
    cells, counts = np.arange(30) // 3, np.ones((1, 10), dtype=int)
    whole = resampled_coefficients(left, right, cells, counts)
    some = resampled_coefficients(left, right, cells, counts, with_tau=(2, 1))
    np.testing.assert_array_equal(some[:2], whole[:2])
    np.testing.assert_array_equal(some[2, :2, :1], whole[2, :2, :1])
    assert np.isnan(some[2, 2:]).all() and np.isnan(some[2, :, 1:]).all()


def test_whole_cells_are_drawn():
    cells = np.array([0, 0, 1, 2, 2, 2])
    units, counts = drawn_units(cells, 40, seed=3)
    np.testing.assert_array_equal(units, cells)
    assert counts.shape == (40, 3)
    assert (counts.sum(axis=1) == 3).all()
    np.testing.assert_array_equal(counts, drawn_units(cells, 40, seed=3)[1])
    assert (counts != drawn_units(cells, 40, seed=4)[1]).any()


def test_very_many_cells_are_drawn_in_groups_of_whole_cells():
    cells = np.repeat(np.arange(601), 2)
    units, counts = drawn_units(cells, 10, seed=0)
    assert counts.shape == (10, MAX_UNITS)
    np.testing.assert_array_equal(units[::2], units[1::2])  # a cell's networks stay together
    assert set(np.bincount(units)) == {4, 6}
    assert np.abs(np.corrcoef(units[::2], np.arange(601))[0, 1]) < 0.1, "the order of cells must not matter"
