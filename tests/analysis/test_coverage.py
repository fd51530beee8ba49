"""How often 95 % intervals hold the truth, on simulated cells of which it is known."""

import math

import numpy as np
import pytest

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.partial import partial_correlation
from tests.analysis.tables import MEASURE, TARGET, gaussian_cells, grid

TRAIN = "robust_loss_train"
CELLS, SEEDS, TABLES = 20, 3, 1000
BETWEEN = np.array([[1, 0.6, 0.5], [0.6, 1, 0.4], [0.5, 0.4, 1]])
NAMES = ("pearson", "spearman", "kendall", "partial_pearson", "partial_spearman")


def truth(shared):
    """Of normal variables: Spearman's rho and Kendall's tau follow from the correlation (Kruskal 1958)."""
    r = shared * BETWEEN
    rho = 6 / math.pi * np.arcsin(r / 2)
    partial = [float(partial_correlation(m[0, 1], m[0, 2], m[1, 2])) for m in (r, rho)]
    return [r[0, 1], rho[0, 1], 2 / math.pi * math.asin(r[0, 1]), *partial]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shared", [0.95, 0.5])
def test_nominal_95_per_cent_is_93_to_97(shared):
    """Seed noise of 5 % or half of the variance; 1,000 tables tell the coverage to 0.7 points (one sd)."""
    generator = np.random.default_rng(0)
    table = grid([f"m{number}" for number in range(CELLS)], seeds=SEEDS)
    covered = np.zeros(5)
    for _ in range(TABLES):
        (x, y, z), _ = gaussian_cells(generator, CELLS, SEEDS, BETWEEN, shared)
        pair = correlate(table.assign(**{MEASURE: x, TARGET: y, TRAIN: z}), [MEASURE], [TARGET], resamples=1000).pairs[
            0
        ]
        items = [getattr(pair, name) for name in NAMES]
        covered += [item.low <= value <= item.high for item, value in zip(items, truth(shared), strict=True)]
    found = dict(zip(NAMES, 100 * covered / TABLES, strict=True))
    assert all(93 <= share <= 97 for share in found.values()), found
