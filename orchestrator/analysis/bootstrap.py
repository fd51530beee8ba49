"""Three correlation coefficients of thousands of resamples at once: the inner loop of the cluster bootstrap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VALUES_AT_ONCE = 2_000_000
"""Length of temporary arrays (16 MB each)."""


def resampled_coefficients(x: Floats, y: Floats, cells: Ints, counts: Ints) -> Floats:
    """Pearson r, Spearman rho and Kendall tau-b of many resamples of cells at once.

    A resample is a count for every cell: how often all its trials are in the sample. No copies are made. Kendall's
    tau-b, sum sign(dx) sign(dy) / sqrt(sum |sign(dx)| sum |sign(dy)|) over pairs, becomes three quadratic forms in the
    counts; a copy is tied with itself in both variables, as in a sample with real copies. A trial's mid-rank is half
    the sum of sign(dx) against the sample, up to a constant, which is all that Spearman's rho needs.

    Args:
        x, y: Shape (n,), finite.
        cells: Shape (n,), each trial's cell in 0..k-1.
        counts: Shape (b, k), at least 0.

    Returns:
        Shape (3, b) in [-1, 1]; NaN where x or y is constant in a resample.
    """
    order = np.argsort(cells, kind="stable")
    x, y, cells = x[order], y[order], cells[order]
    pairs = _sums_over_pairs(x, y, cells, counts.shape[1])
    x, y = scaled(x), scaled(y)
    blocks = []
    for start in range(0, len(counts), step := max(1, VALUES_AT_ONCE // len(x))):
        block = counts[start : start + step].astype(np.float64)
        weights = block[:, cells]
        untied_x, untied_y, concordance = (((block @ form) * block).sum(axis=1) for form in pairs.forms)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = [
                _weighted_pearson(x[None], y[None], weights),
                _weighted_pearson(block @ pairs.ranks_x.T, block @ pairs.ranks_y.T, weights),
                concordance / np.sqrt(untied_x) / np.sqrt(untied_y),
            ]
        # A constant resample has a variance of 0 only up to rounding, but exactly no untied pair.
        blocks.append(np.where((untied_x > 0) & (untied_y > 0), np.clip(rows, -1, 1), np.nan))
    return np.concatenate(blocks, axis=1)


def scaled(values: Floats) -> Floats:
    """Divided by the power of two above the largest, so that squares neither overflow nor vanish."""
    exponent = np.frexp(np.abs(values).max())[1]
    scaled: Floats = np.ldexp(values, -exponent)
    return scaled


@dataclass(frozen=True)
class _PairSums:
    """Sums over pairs of trials, by cell; S[i, j] = sign(x_i - x_j)."""

    ranks_x: Floats
    """Shape (n, k): sum of S over the trials of each cell."""
    ranks_y: Floats
    forms: tuple[Floats, Floats, Floats]
    """Shape (k, k) each: sums of |S_x|, |S_y| and S_x S_y over pairs of cells."""


def _sums_over_pairs(x: Floats, y: Floats, cells: Ints, k: int) -> _PairSums:
    """The sums for rows sorted by cell, in blocks of rows, so that n x n values are never held."""
    n = len(x)
    # A cell without trials would take its neighbour's first row in reduceat: only those present are summed.
    present, starts = np.unique(cells, return_index=True)
    ranks_x, ranks_y = np.zeros((n, k)), np.zeros((n, k))
    forms = (np.zeros((k, k)), np.zeros((k, k)), np.zeros((k, k)))
    for start in range(0, n, step := max(1, VALUES_AT_ONCE // n)):
        block = slice(start, start + step)
        signs_x = np.subtract(x[block, None] > x, x[block, None] < x, dtype=np.float64)
        signs_y = np.subtract(y[block, None] > y, y[block, None] < y, dtype=np.float64)
        ranks_x[block, present] = np.add.reduceat(signs_x, starts, axis=1)
        ranks_y[block, present] = np.add.reduceat(signs_y, starts, axis=1)
        for form, values in zip(forms, (np.abs(signs_x), np.abs(signs_y), signs_x * signs_y), strict=True):
            by_cell = np.zeros((len(values), k))
            by_cell[:, present] = np.add.reduceat(values, starts, axis=1)
            np.add.at(form, cells[block], by_cell)
    return _PairSums(ranks_x, ranks_y, forms)


def _weighted_pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson r for each row of weights, shape (b, n); x and y have shape (b, n) or (1, n)."""
    total = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / total
    dy = y - (weights * y).sum(axis=1, keepdims=True) / total
    covariance = (weights * dx * dy).sum(axis=1)
    r: Floats = covariance / np.sqrt((weights * dx**2).sum(axis=1)) / np.sqrt((weights * dy**2).sum(axis=1))
    return r
