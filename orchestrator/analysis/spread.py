"""Seed noise of a value beside its differences between cells."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.analysis.results import Spread
from orchestrator.analysis.rows import GROUP


def spreads_of(rows: pd.DataFrame, columns: Sequence[str]) -> list[Spread]:
    """One-way analysis of variance by cell (and checkpoint) of each column, as two standard deviations.

    Args:
        rows: As `rows.usable_rows` gives them.
        columns: Value columns of theirs; NaN is left out.
    """
    groups = rows.groupby(list(GROUP)).ngroup().to_numpy().astype(np.int64)
    return [_spread(name, rows[name].to_numpy(), groups) for name in columns]


def _spread(column: str, values: Floats, groups: Ints) -> Spread:
    used = ~np.isnan(values)
    scale = float(np.abs(values[used]).max(initial=0)) or 1.0
    values = values[used] / scale
    _, place, sizes = np.unique(groups[used], return_inverse=True, return_counts=True)
    means = np.bincount(place, values, len(sizes)) / sizes
    k, freedom = len(sizes), len(values) - len(sizes)
    within = between = None
    reasons = []
    if freedom > 0:
        squares = float(((values - means[place]) ** 2).sum())
        within = _finite(math.sqrt(squares / freedom) * scale)
    else:
        reasons.append("no cell has two seeds")
    if k > 1:
        between = _finite(float(np.std(means, ddof=1)) * scale)
    else:
        reasons.append("fewer than two cells")
    return Spread(column, len(values), k, within, between, "; ".join(reasons) or None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
