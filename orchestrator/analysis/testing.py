"""One p-value for each pair of measure and target, and the price of testing many at once."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from orchestrator.analysis.bootstrap import Floats, Ints, scaled
from orchestrator.analysis.results import PValue

ENUMERATED = 7
"""Up to so many cells with ties all orders are tried: 5,040."""


def cell_permutation_test(x: Floats, y: Floats, cells: Ints) -> PValue:
    """The p-value of Kendall's tau of the cell means, two-sided, over all ways to pair them.

    Why this one: cells are what is drawn and what is independent, so cells are what may be exchanged when measure and
    target have nothing to do with one another. A test over networks would take seeds for evidence: with three nearly
    equal seeds a cell it calls a quarter of pure noise significant at 5 % (tests). A test over cell means keeps its
    level with any number of cells, also where intervals are only roughly right, and has no smallest value that
    resampling sets. The distribution over all orders is exact where there are no ties and at most 33 cells, or ties and
    at most 7 cells; else it is scipy's normal approximation of it. Cells with unequal numbers of networks can be
    exchanged only roughly. It tests independence, not a correlation of exactly 0.

    Args:
        x: Shape (n,), finite.
        y: Shape (n,), finite.
        cells: Shape (n,), each network's cell.

    Source: Kendall, Rank Correlation Methods (1970), chapter 5.
    """
    means_x, means_y = (
        _means(values.astype(np.float64).tobytes(), cells.astype(np.int64).tobytes()) for values in (x, y)
    )
    k = len(means_x)
    if k < 3:
        return PValue(None, reason=f"{k} {'cell' if k == 1 else 'cells'}, and at least 3 are needed")
    if np.ptp(means_x) == 0 or np.ptp(means_y) == 0:
        return PValue(None, reason="all cells have the same mean")
    ties = len(np.unique(means_x)) < k or len(np.unique(means_y)) < k
    if ties and k <= ENUMERATED:
        p = _over_all_orders(means_x, means_y)
    else:
        p = float(stats.kendalltau(means_x, means_y).pvalue)
    return PValue(min(p, 1.0), smallest=2 / math.factorial(min(k, 100)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: each value is the smallest family-wise level at which its test rejects.

    Args:
        p_values: In [0, 1]; None where there was no test, which counts for nothing.

    Returns:
        In [0, 1], in the same order.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[index] = highest
    return corrected


@lru_cache(maxsize=256)  # of each of many measures with each of many targets
def _means(values: bytes, cells: bytes) -> Floats:
    """The mean of every cell, scaled so that no sum overflows, and rounded, so that equal cells have equal means."""
    _, place = np.unique(np.frombuffer(cells, dtype=np.int64), return_inverse=True)
    means = np.bincount(place, scaled(np.frombuffer(values))) / np.bincount(place)
    return np.asarray([float(f"{mean:.12g}") for mean in means])


def _over_all_orders(x: Floats, y: Floats) -> float:
    """How often |tau| is at least the one found when y is paired with x in every order."""
    orders = np.array(list(itertools.permutations(range(len(x)))))
    signs_x, signs_y = (np.sign(np.subtract.outer(values, values)).astype(np.int64) for values in (x, y))
    # The denominator of tau-b is the same in every order.
    found = np.einsum("ij,oij->o", signs_x, signs_y[orders[:, :, None], orders[:, None, :]])
    return float(np.mean(np.abs(found) >= abs(found[0])))
