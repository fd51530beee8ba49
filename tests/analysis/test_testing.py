"""P-values against all orders of the cells, their level under independence, and Holm's correction by its definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.analysis.correlation import correlate, correlate_by
from orchestrator.analysis.testing import cell_permutation_test, holm
from tests.analysis.tables import MEASURE, TARGET, gaussian_cells, grid


def tau(x, y):
    return stats.kendalltau(x, y).statistic


@pytest.mark.parametrize("values", ["different", "ties", "unequal cells"])
def test_it_is_the_share_of_orders_that_are_as_extreme(values):
    generator = np.random.default_rng(1)
    cells = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5] if values != "unequal cells" else [0, 1, 1, 2, 3, 4, 5, 5, 5])
    x, y = generator.normal(size=(2, len(cells)))
    y += 2 * x
    if values == "ties":
        x, y = x.round(), y.round()
    means_x, means_y = ([v[cells == cell].mean() for cell in range(6)] for v in (x, y))
    found = [abs(tau(means_x, order)) for order in itertools.permutations(means_y)]
    expected = np.mean(np.array(found) >= abs(tau(means_x, means_y)) - 1e-9)
    assert cell_permutation_test(x, y, cells).value == pytest.approx(expected)


def test_many_cells_have_the_normal_approximation():
    x, y = np.random.default_rng(0).normal(size=(2, 300))
    cells = np.arange(300) // 2
    means = [np.bincount(cells, values) / 2 for values in (x, y)]
    assert cell_permutation_test(x, y, cells).value == pytest.approx(
        stats.kendalltau(*means, method="asymptotic").pvalue
    )


@pytest.mark.parametrize("cells", [4, 9])
def test_its_level_holds_and_that_of_a_test_over_networks_does_not(cells):
    """1,000 tables of independent measure and target, three nearly equal seeds a cell, at 5 %."""
    generator = np.random.default_rng(0)
    ours, networks = 0, 0
    for _ in range(1000):
        (x, y), cell = gaussian_cells(generator, cells, 3, np.eye(2), shared=0.95)
        ours += cell_permutation_test(x, y, cell).value <= 0.05
        networks += stats.kendalltau(x, y).pvalue <= 0.05
    assert ours <= 65  # 50 expected, 0 with four cells; sd 7
    assert 200 < networks < 350


def test_it_finds_what_is_there():
    generator = np.random.default_rng(0)
    (x, y), cell = gaussian_cells(generator, 12, 3, [[1, 0.95], [0.95, 1]], shared=0.9)
    assert cell_permutation_test(x, y, cell).value < 0.01


@pytest.mark.parametrize(
    ("cells", "reason"), [([0, 0, 0], "1 cell, and at least 3"), ([0, 0, 1], "2 cells, and at least 3")]
)
def test_too_few_cells(cells, reason):
    found = cell_permutation_test(np.arange(3.0), np.arange(3.0), np.array(cells))
    assert found.value is None
    assert reason in found.reason


def test_equal_means():
    found = cell_permutation_test(np.array([0, 2, 1, 1, 0.5, 1.5]), np.arange(6.0), np.array([0, 0, 1, 1, 2, 2]))
    assert (found.value, found.reason) == (None, "all cells have the same mean")


@pytest.mark.parametrize("k", [3, 4, 5])
def test_the_smallest_value_is_reached(k):
    found = cell_permutation_test(np.arange(float(k)), np.arange(float(k)), np.arange(k))
    assert found.value == pytest.approx(found.smallest) == pytest.approx(2 / math.factorial(k))


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_rejects_what_its_definition_rejects(p_values):
    """Step down from the smallest p: reject while p <= level / (tests that are left)."""
    corrected = holm(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    assert [value is None for value in corrected] == [p is None for p in p_values]
    for level in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9):
        rejected = set()
        for rank, (p, index) in enumerate(tested):
            if p * (len(tested) - rank) > level:
                break
            rejected.add(index)
        assert {index for index, value in enumerate(corrected) if value is not None and value <= level} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, None, 0.005]) == pytest.approx([0.03, 0.06, 0.06, None, 0.02])


def test_all_pairs_of_a_result_are_corrected_together():
    generator = np.random.default_rng(0)
    names = ["average_flatness_xi1", "worst_flatness_xi0.003", "hessian_trace"]
    table = grid([f"m{i}" for i in range(8)], seeds=2, **{name: generator.normal(size=16) for name in names})
    table["robust_error_gap"] = table[names[0]] + 0.1 * generator.normal(size=16)
    result = correlate(table, resamples=5)
    assert len(result.pairs) == 8
    assert [pair.p.holm for pair in result.pairs] == holm([pair.p.value for pair in result.pairs])
    assert min(pair.p.holm for pair in result.pairs) >= 8 * min(pair.p.value for pair in result.pairs) - 1e-12


def test_groups_are_corrected_together():
    table = grid(["at", "mart"], [f"r{i}" for i in range(6)], seeds=2)
    table[TARGET] = table[MEASURE] + 0.1 * table[TARGET]
    groups = correlate_by(table, "method", [MEASURE], [TARGET], resamples=5)
    assert list(groups) == ["at", "mart"]
    alone = [correlate(table[table["method"] == name], [MEASURE], [TARGET], resamples=5) for name in groups]
    pairs = [result.pairs[0] for result in groups.values()]
    assert [pair.p.value for pair in pairs] == [result.pairs[0].p.value for result in alone]
    assert [pair.p.holm for pair in pairs] == holm([pair.p.value for pair in pairs])
    assert [pair.kendall for pair in pairs] == [result.pairs[0].kendall for result in alone]
