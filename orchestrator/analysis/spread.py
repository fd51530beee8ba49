"""Seed noise of a value beside its differences between cells."""

import math

import numpy as np
import pandas as pd

from orchestrator.analysis.results import Spread
from orchestrator.analysis.rows import GROUP


def spread_of(rows: pd.DataFrame, column: str) -> Spread:
    """One-way analysis of variance by cell (and checkpoint), as two standard deviations.

    Args:
        rows: As `rows.usable_rows` gives them.
        column: A value column of theirs; NaN is left out.
    """
    used = rows[rows[column].notna()]
    values = used[column].to_numpy()
    scale = float(np.abs(values).max(initial=0)) or 1.0
    groups = (used[column] / scale).groupby([used[name] for name in GROUP])
    sizes, means = groups.size().to_numpy(), groups.mean().to_numpy()
    k, freedom = len(sizes), len(used) - len(sizes)
    within = between = None
    reasons = []
    if freedom > 0:
        squares = float(((used[column] / scale - groups.transform("mean")) ** 2).sum())
        within = _finite(math.sqrt(squares / freedom) * scale)
    else:
        reasons.append("no cell has two seeds")
    if k > 1:
        between = _finite(float(np.std(means, ddof=1)) * scale)
    else:
        reasons.append("fewer than two cells")
    return Spread(column, len(used), k, within, between, "; ".join(reasons) or None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
