"""Three correlation coefficients of thousands of resamples at once: the inner loop of the cluster bootstrap.

A resample is a count for every cell: how often all its networks are in the sample. No copies are made.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.concordance import forms_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VALUES_AT_ONCE = 200_000
"""Length of temporary arrays, so that they stay in a core's cache."""
TABLE_VALUES = 2_000_000
"""Of tables of ranks, which are made for many resamples at once."""
MAX_BLOCKS = 1024
"""In resamples of more different values, neighbours share a rank."""
CANCELLATION = 1e-13
"""A variance below this, relative to the mean square, is rounding."""


def resampled_coefficients(
    left: Floats, right: Floats, cells: Ints, counts: Ints, *, with_tau: tuple[int, int] | None = None
) -> Floats:
    """Pearson r, Spearman rho and Kendall tau-b of every left with every right variable, in many resamples of cells.

    Above 1,024 different values of a variable its ranks are those of 1,024 blocks of neighbours, for Spearman's rho
    alone: over 10,000 Gaussian networks that moves a resample's rho by at most 0.00006.

    Args:
        left: Shape (l, n), finite.
        right: Shape (t, n), finite.
        cells: Shape (n,), each network's cell in 0..k-1.
        counts: Shape (b, k), at least 0.
        with_tau: Of how many left and right variables, the first ones, tau is wanted; all if not given.

    Returns:
        Shape (3, l, t, b) in [-1, 1]; NaN where a variable is constant in a resample, or tau is not wanted. A copy is
        tied with itself, as in a sample with real copies.
    """
    present, groups = np.unique(cells, return_inverse=True)
    often = counts[:, present].astype(np.float64)
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(len(present)))
    l, t = with_tau or (len(left), len(right))  # noqa: E741  (l, t, n, k are the shapes everywhere here)
    found = np.full((3, len(left), len(right), len(counts)), np.nan)
    with ThreadPoolExecutor(1) as beside:  # numpy lets go of the interpreter while it computes
        if l and t:
            tau = beside.submit(lambda: forms_of(np.concatenate([left[:l], right[:t]]), l, groups).tau_b(often))
        found[0] = _pearson(left[:, order], right[:, order], starts, often)
        found[1] = _spearman(np.concatenate([left, right]), len(left), groups, often)
        if l and t:
            found[2, :l, :t] = tau.result()
    # A constant resample has a variance of 0 only up to rounding, but exactly no ranks that differ.
    found[0, np.isnan(found[1])] = np.nan
    clipped: Floats = np.clip(found, -1, 1)
    return clipped


def scaled(values: Floats) -> Floats:
    """Divided by the power of two above the largest, so that squares neither overflow nor vanish."""
    exponent = np.frexp(np.abs(values).max())[1]
    scaled: Floats = np.ldexp(values, -exponent)
    return scaled


def _sizes(starts: Ints, n: int) -> Ints:
    """Networks in each cell, of rows that are sorted by cell."""
    return np.diff(starts, append=n)


def _pearson(left: Floats, right: Floats, starts: Ints, counts: Floats) -> Floats:
    """Shape (l, t, b), from each cell's sums of values, squares and products; NaN where rounding ate a variance."""
    left, right = _centred(left), _centred(right)
    sums = [np.add.reduceat(v, starts, axis=-1) for v in (left, right, left**2, right**2, left[:, None] * right)]
    total = counts @ _sizes(starts, left.shape[1]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_left, mean_right, square_left, square_right, product = (each @ counts.T / total for each in sums)
        variances = []
        for mean, square in ((mean_left, square_left), (mean_right, square_right)):
            variance = square - mean**2
            variances.append(np.where(variance > CANCELLATION * square, variance, np.nan))
        covariance = product - mean_left[:, None] * mean_right
        r: Floats = covariance / np.sqrt(variances[0])[:, None] / np.sqrt(variances[1])
    return r


def _centred(values: Floats) -> Floats:
    """Every row scaled, minus its mean."""
    rows = np.array([scaled(row) for row in values])
    centred: Floats = rows - rows.mean(axis=1, keepdims=True)
    return centred


def _spearman(values: Floats, l: int, groups: Ints, counts: Floats) -> Floats:  # noqa: E741
    """Spearman's rho, shape (l, t, b): in a resample the middle rank of a block of ties is the weight below it and half
    its own.

    Args:
        values: Shape (l + t, n).
        l: How many are left.
        groups: Shape (n,), in 0..k-1.
        counts: Shape (b, k).
    """
    c, n = values.shape
    blocks = np.array([_blocks(each) for each in values])
    width = int(blocks.max()) + 1
    k = counts.shape[1]
    held = np.array([np.bincount(groups * width + each, minlength=k * width).reshape(k, width) for each in blocks])
    totals = counts @ np.bincount(groups)
    # BLAS is twice as fast in single precision, which holds whole numbers below 2**24 exactly
    single = totals.max(initial=0) < 2**23
    kind: type[np.floating[Any]] = np.float32 if single else np.float64
    up_to = np.cumsum(held, axis=2).transpose(1, 0, 2).reshape(k, c * width).astype(kind)
    places = (blocks + width * np.arange(c)[:, None]).ravel()
    # sums of products do not fit into single precision, but have its accuracy; blocks of neighbours have less
    product = np.float32 if single and any(len(np.unique(each)) > width for each in values) else np.float64
    rho = np.full((l, c - l, len(counts)), np.nan)
    step = max(1, TABLE_VALUES // (c * width))
    inner = max(1, VALUES_AT_ONCE // (c * n))
    for start in range(0, len(counts), step):
        chunk, total = counts[start : start + step], totals[start : start + step]
        cumulated = np.matmul(chunk.astype(kind), up_to).reshape(-1, c, width)
        often = chunk.astype(product)
        variance = np.empty((len(chunk), c))
        covariance = np.empty((len(chunk), l, c - l), dtype=product)
        for low in range(0, len(chunk), inner):
            rows = slice(low, low + inner)
            ranks, variance[rows] = _ranks(cumulated[rows], total[rows])
            ranks = ranks.reshape(len(ranks), -1).astype(product, copy=False)
            own = np.take(ranks, places, axis=1, mode="clip").reshape(-1, c, n)
            weighted = own[:, l:] * np.take(often[rows], groups, axis=1, mode="clip")[:, None]
            np.matmul(own[:, :l], weighted.transpose(0, 2, 1), out=covariance[rows])
        scale = np.sqrt(variance[:, :l, None]) * np.sqrt(variance[:, None, l:])
        found = np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)
        rho[:, :, start : start + step] = found.transpose(1, 2, 0)
    return rho


def _ranks(cumulated: NDArray[np.floating[Any]], totals: Floats) -> tuple[NDArray[np.floating[Any]], Floats]:
    """Twice the middle rank of each block in each resample, less the mean, shape (b, c, width); and its variance,
    shape (b, c), which for blocks of weights w is (total^3 - sum w^3) / 3, and so exactly 0 for a constant.

    Args:
        cumulated: Shape (b, c, width), whole numbers: the weight of each block and of those before it.
        totals: Shape (b,), of all blocks.
    """
    weights = cumulated.copy()
    weights[:, :, 1:] -= cumulated[:, :, :-1]
    ranks = cumulated + cumulated
    ranks -= weights
    ranks -= totals[:, None, None].astype(ranks.dtype)
    exact = weights.astype(np.float64)
    cubes = np.einsum("bcw,bcw,bcw->bc", exact, exact, exact)
    return ranks, ((totals * totals * totals)[:, None] - cubes) / 3


def _blocks(values: Floats) -> Ints:
    """Numbers the different values in their order, shape (n,): each its own, or as many neighbours together as it takes
    to have at most `MAX_BLOCKS`."""
    different, number = np.unique(values, return_inverse=True)
    if len(different) <= MAX_BLOCKS:
        return number.astype(np.int64)
    smaller = np.searchsorted(np.sort(values), values)  # the same for those that are tied
    return np.unique(smaller * MAX_BLOCKS // len(values), return_inverse=True)[1].astype(np.int64)
