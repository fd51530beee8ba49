"""Three correlation coefficients of thousands of resamples at once: the inner loop of the cluster bootstrap.

A resample is a count for every cell: how often all its networks are in the sample. No copies are made.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Singles = NDArray[np.float32]

VALUES_AT_ONCE = 200_000
"""Length of temporary arrays, so that they stay in a core's cache."""
ROWS_AT_ONCE = 32
"""Rows whose signs against all others are taken at once."""
CANCELLATION = 1e-13
"""A variance below this, relative to the mean square, is rounding."""


def resampled_coefficients(left: Floats, right: Floats, cells: Ints, counts: Ints) -> Floats:
    """Pearson r, Spearman rho and Kendall tau-b of every left with every right variable, in many resamples of cells.

    Args:
        left: Shape (l, n), finite.
        right: Shape (t, n), finite.
        cells: Shape (n,), each network's cell in 0..k-1.
        counts: Shape (b, k), at least 0.

    Returns:
        Shape (3, l, t, b) in [-1, 1]; NaN where a variable is constant in a resample. A copy is tied with itself, as
        in a sample with real copies.
    """
    order = np.argsort(cells, kind="stable")
    # A cell without networks would take its neighbour's first row in reduceat: only those present are summed.
    present, starts = np.unique(cells[order], return_index=True)
    left, right, counts = left[:, order], right[:, order], counts[:, present]
    pearson = _pearson(left, right, starts, counts.astype(np.float64))
    spearman, untied_left, untied_right = _spearman(left, right, starts, counts)
    untied = np.sqrt(untied_left)[:, None] * np.sqrt(untied_right)
    with np.errstate(invalid="ignore", divide="ignore"):
        kendall = _concordance(left, right, starts, counts.astype(np.float64)) / untied
    # A constant resample has a variance of 0 only up to rounding, but exactly no untied pair.
    return np.where(untied > 0, np.clip([pearson, spearman, kendall], -1, 1), np.nan)


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


def _spearman(left: Floats, right: Floats, starts: Ints, counts: Ints) -> tuple[Floats, Floats, Floats]:
    """Spearman's rho, shape (l, t, b), and the weight of untied pairs of each variable, shapes (l, b) and (t, b).

    Sorted once; in a resample the middle rank of a block of ties is the weight below it and half its own.

    """
    values = np.concatenate([left, right])
    c, n = values.shape
    order = np.argsort(values, axis=1, kind="stable")
    first, last = (_in_each_row(edge, n + 1) for edge in _tie_blocks(values, order))
    rho, untied = np.empty((len(left), len(right), len(counts))), np.empty((c, len(counts)))
    step = max(1, VALUES_AT_ONCE // (c * n))
    taken, low, high = (np.empty((step, c, n)) for _ in range(3))
    below = np.zeros((step, c, n + 1))
    for start in range(0, len(counts), step):
        block = np.repeat(counts[start : start + step], _sizes(starts, n), axis=1).astype(np.float64)
        m = len(block)
        np.take(block, order, axis=1, out=taken[:m], mode="clip")
        np.cumsum(taken[:m], axis=2, out=below[:m, :, 1:])
        flat = below[:m].reshape(m, -1)
        for edge, place in ((first, low), (last, high)):
            np.take(flat, edge, axis=1, out=place[:m].reshape(m, -1), mode="clip")
        column, total = block[:, :, None], block.sum(axis=1)[:, None, None]
        untied[:, start : start + m] = (total**2 - high[:m] @ column + low[:m] @ column)[:, :, 0].T
        # Twice the middle ranks, whose mean is `total`: whole numbers, so that a constant has a variance of exactly 0.
        ranks = np.add(low[:m], high[:m], out=low[:m])
        weighted = np.multiply(ranks, block[:, None], out=high[:m])
        variance = np.einsum("bcn,bcn->bc", weighted, ranks)[:, :, None] - total**3
        covariance = weighted[:, : len(left)] @ ranks[:, len(left) :].transpose(0, 2, 1) - total**3
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.sqrt(variance[:, : len(left)]) * np.sqrt(variance[:, len(left) :]).transpose(0, 2, 1)
            rho[:, :, start : start + m] = (covariance / scale).transpose(1, 2, 0)
    return rho, untied[: len(left)], untied[len(left) :]


def _tie_blocks(values: Floats, order: Ints) -> tuple[Ints, Ints]:
    """For each value the places, among the sorted values, where those tied with it begin and end; shapes (c, n)."""
    c, n = values.shape
    begins, ends = np.empty((c, n), dtype=np.int64), np.empty((c, n), dtype=np.int64)
    for row in range(c):
        ordered = values[row, order[row]]
        begins[row, order[row]] = np.searchsorted(ordered, ordered, side="left")
        ends[row, order[row]] = np.searchsorted(ordered, ordered, side="right")
    return begins, ends


def _in_each_row(places: Ints, width: int) -> Ints:
    """Places in the rows of an array of that width, as places in the flat array."""
    return (places + width * np.arange(len(places))[:, None]).ravel()


def _concordance(left: Floats, right: Floats, starts: Ints, counts: Floats) -> Floats:
    """Sum over pairs of networks of sign(dx) sign(dy) in each resample, shape (l, t, b).

    The sums over pairs of cells, S[i, j] = sign(x_i - x_j), make a quadratic form in the counts.
    """
    ranks = np.array([np.unique(row, return_inverse=True)[1] for row in (*left, *right)], dtype=np.float32)
    found = np.empty((len(left), len(right), len(counts)))
    for index, forms in enumerate(_forms(ranks, len(left), starts)):
        for row, form in enumerate(forms):
            found[row, index] = ((counts @ form) * counts).sum(axis=1)
    return found


def _forms(ranks: Singles, l: int, starts: Ints) -> Floats:  # noqa: E741  (l, t, n, k are the shapes everywhere here)
    """Shape (t, l, k, k): sums of S_x S_y over the pairs of networks of two cells.

    In blocks of rows and columns, each whole numbers below 2**24, which float32 holds exactly.

    Args:
        ranks: Shape (l + t, n), dense ranks: whole numbers, so that a difference cut to [-1, 1] is its sign.
        l: How many of the rows are left variables.
        starts: The first row of each cell.
    """
    n, k, t = ranks.shape[1], len(starts), len(ranks) - l
    forms = np.zeros((t, l, k, k))
    sums = np.empty((t, l, n), dtype=np.float32)
    step = max(1, VALUES_AT_ONCE // (len(ranks) * ROWS_AT_ONCE))
    for cell, (begin, end) in enumerate(zip(starts, [*starts[1:], n], strict=True)):
        for top in range(begin, end, ROWS_AT_ONCE):
            rows = slice(top, min(end, top + ROWS_AT_ONCE))
            for near in range(begin, n, step):
                columns = slice(near, near + step)
                signs = np.subtract(ranks[:, rows, None], ranks[:, None, columns])
                np.clip(signs, -1, 1, out=signs)
                for index in range(t):
                    np.einsum("lij,ij->lj", signs[:l], signs[l + index], out=sums[index, :, columns])
            forms[:, :, cell, cell:] += np.add.reduceat(sums[:, :, begin:], starts[cell:] - begin, axis=2)
    upper = np.triu_indices(k, 1)
    forms[:, :, upper[1], upper[0]] = forms[:, :, upper[0], upper[1]]
    return forms
