"""How often nominal 95 % intervals of correlations hold the truth, over simulated cells; the ones used, and others.

    python benchmarks/coverage.py [--tables 1000] [--resamples 1000]

Gaussian cells and seeds: `shared` is the part of the variance that the seeds of a cell share. `log-normal` takes the
exponential of both variables, which changes Pearson's coefficient alone.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from orchestrator.analysis.bootstrap import Floats, resampled_coefficients
from orchestrator.analysis.estimates import with_interval

LEVEL = 0.95
DESIGNS = (
    # cells, seeds, correlation, shared, log-normal
    (20, 3, 0.0, 0.95, False),
    (20, 3, 0.5, 0.95, False),
    (20, 3, 0.85, 0.95, False),
    (20, 3, 0.3, 0.5, False),
    (20, 1, 0.6, 0.99, False),
    (50, 2, 0.5, 0.95, False),
    (9, 2, 0.5, 0.95, False),
    (9, 2, 0.9, 0.97, False),
    (6, 2, 0.5, 0.95, False),
    (5, 3, 0.5, 0.95, False),
    (20, 3, 0.6, 0.95, True),
)
Ends = tuple[Floats, Floats]


def main() -> None:
    """Prints a table of all designs and kinds of interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    asked = parser.parse_args()
    print("| cells x seeds | r | shared | interval | Pearson | Spearman | Kendall | mean width |")
    print("|---|---|---|---|---|---|---|---|")
    for cells, seeds, r, shared, log_normal in DESIGNS:
        covered, width = measure(cells, seeds, r, shared, log_normal, asked.tables, asked.resamples)
        name = f"{cells} x {seeds}{' log-normal' if log_normal else ''}"
        for kind in KINDS:
            shares = " | ".join(f"{100 * share:.1f}" for share in covered[kind])
            widths = ", ".join(f"{value:.2f}" for value in width[kind])
            print(f"| {name} | {r:g} | {shared:g} | {kind} | {shares} | {widths} |", flush=True)


def measure(
    cells: int, seeds: int, r: float, shared: float, log_normal: bool, tables: int, resamples: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Share of tables whose interval holds the truth, and mean width, for the three coefficients of each kind."""
    generator = np.random.default_rng(0)
    pearson = (math.exp(r) - 1) / (math.e - 1) if log_normal else r
    truth = np.array([pearson, 6 / math.pi * math.asin(r / 2), 2 / math.pi * math.asin(r)])
    cell = np.repeat(np.arange(cells), seeds)
    without_one = np.ones((cells, cells), dtype=np.int64) - np.eye(cells, dtype=np.int64)
    covered = {kind: np.zeros(3) for kind in KINDS}
    width = {kind: np.zeros(3) for kind in KINDS}
    for _ in range(tables):
        means = generator.multivariate_normal([0, 0], [[1, r / shared], [r / shared, 1]], size=cells)[cell]
        values = math.sqrt(shared) * means + math.sqrt(1 - shared) * generator.normal(size=means.shape)
        x, y = np.exp(values.T) if log_normal else values.T
        drawn = generator.multinomial(cells, np.full(cells, 1 / cells), size=resamples)
        counts = np.concatenate([np.ones((1, cells), dtype=np.int64), without_one, drawn])
        found = resampled_coefficients(x[None], y[None], cell, counts)[:, 0, 0]
        value, jackknife, samples = found[:, 0], found[:, 1 : cells + 1], found[:, cells + 1 :]
        for kind, interval in KINDS.items():
            low, high = interval(value, jackknife, samples)
            covered[kind] += (low <= truth) & (truth <= high)
            width[kind] += high - low
    shares, widths = ({kind: total / tables for kind, total in each.items()} for each in (covered, width))
    return shares, widths


def used(value: Floats, jackknife: Floats, samples: Floats) -> Ends:
    """The one that `correlate` gives."""
    items = [with_interval(float(v), s, LEVEL, jackknife.shape[1]) for v, s in zip(value, samples, strict=True)]
    low, high = np.array([(item.low, item.high) for item in items], dtype=np.float64).T
    return low, high


def percentile(_value: Floats, _jackknife: Floats, samples: Floats) -> Ends:
    """Quantiles of the resamples."""
    low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return low, high


def bias_corrected_accelerated(value: Floats, jackknife: Floats, samples: Floats) -> Ends:
    """BCa (Efron and Tibshirani 1993, chapter 14)."""
    below = (np.nanmean(samples < value[:, None], axis=1) + np.nanmean(samples <= value[:, None], axis=1)) / 2
    bias = stats.norm.ppf(np.clip(below, 1e-6, 1 - 1e-6))
    difference = jackknife.mean(axis=1, keepdims=True) - jackknife
    acceleration = (difference**3).sum(axis=1) / 6 / (difference**2).sum(axis=1) ** 1.5
    ends = []
    for z in stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]):
        at = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(np.array([np.nanquantile(s, q) for s, q in zip(samples, at, strict=True)]))
    return ends[0], ends[1]


def leave_one_cell_out(value: Floats, jackknife: Floats, _samples: Floats) -> Ends:
    """t interval on Fisher's z with the jackknife's standard error."""
    k = jackknife.shape[1]
    z, left_out = (np.arctanh(np.clip(values, -1 + 1e-12, 1 - 1e-12)) for values in (value, jackknife))
    error = np.sqrt((k - 1) / k * ((left_out - left_out.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    half = stats.t.ppf((1 + LEVEL) / 2, k - 1) * error
    return np.tanh(z - half), np.tanh(z + half)


KINDS: dict[str, Callable[[Floats, Floats, Floats], Ends]] = {
    "used": used,
    "percentile": percentile,
    "BCa": bias_corrected_accelerated,
    "jackknife t": leave_one_cell_out,
}


if __name__ == "__main__":
    main()
