"""Sums of signs over pairs of networks against n x n matrices of signs, and tau-b against scipy on real copies."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import concordance
from orchestrator.analysis.concordance import forms_of

SHAPES = [(1, 1), (7, 7), (40, 3), (63, 1), (64, 1), (65, 1), (200, 2), (130, 60)]


def drawn(n, k, seed=0):
    """Four variables, of which the second and the fourth have ties, and groups none of which is empty."""
    generator = np.random.default_rng(seed)
    values = np.stack([generator.normal(size=n), generator.integers(0, 5, n), generator.normal(size=n), np.zeros(n)])
    values[3] = generator.integers(0, max(2, n // 2), n)
    return values, generator.permutation(np.concatenate([np.arange(k), generator.integers(0, k, n - k)]))


def brute_force(values, lefts, groups):
    member = (groups == np.arange(groups.max() + 1)[:, None]).astype(float)
    signs = [np.sign(np.subtract.outer(each, each)) for each in values]
    concordant = [[member @ (one * other) @ member.T for other in signs[lefts:]] for one in signs[:lefts]]
    return np.array(concordant), np.array([member @ (each == 0) @ member.T for each in signs])


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_sums_are_those_of_matrices_of_signs(n, k):
    values, groups = drawn(n, k)
    found = forms_of(values, 2, groups)
    expected = brute_force(values, 2, groups)
    np.testing.assert_array_equal(found.concordance, expected[0])
    np.testing.assert_array_equal(found.tied, expected[1])


@pytest.mark.parametrize(("bytes_at_once", "words_at_once", "rows"), [(1, 1, 1), (20_000, 300, 7), (1, 10**6, 1000)])
def test_sizes_of_parts_change_nothing(monkeypatch, bytes_at_once, words_at_once, rows):
    values, groups = drawn(150, 20)
    monkeypatch.setattr(concordance, "BYTES_AT_ONCE", bytes_at_once)
    monkeypatch.setattr(concordance, "WORDS_AT_ONCE", words_at_once)
    monkeypatch.setattr(concordance, "MAX_ROWS", rows)
    found = forms_of(values, 2, groups)
    expected = brute_force(values, 2, groups)
    np.testing.assert_array_equal(found.concordance, expected[0])
    np.testing.assert_array_equal(found.tied, expected[1])


def test_a_group_of_very_many_networks():
    """So many that 16 bits would not hold the sum of a word's counts over all of them."""
    values, groups = drawn(3000, 1)
    found = forms_of(values, 2, groups)
    expected = brute_force(values, 2, groups)
    np.testing.assert_array_equal(found.concordance, expected[0])


@pytest.mark.parametrize("times", [1, 10**6])
def test_tau_is_scipys_on_real_copies(times):
    """Also where the sums are too large for single precision."""
    values, groups = drawn(50, 6)
    counts = np.random.default_rng(1).integers(0, 4, size=(5, 6))
    counts[4] = 0
    found = forms_of(values, 2, groups).tau_b((counts * times).astype(float))
    for at, count in enumerate(counts):
        copies = np.repeat(np.arange(50), count[groups])
        for i in range(2):
            for j in range(2):
                tau = stats.kendalltau(values[i, copies], values[2 + j, copies]).statistic if len(copies) else np.nan
                assert found[i, j, at] == pytest.approx(tau, nan_ok=True)
