"""Coefficients with bootstrap intervals, of every measure and target at once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints, resampled_coefficients
from orchestrator.analysis.estimates import drawn_units, point_estimates, with_interval
from orchestrator.analysis.partial import partial_correlation
from orchestrator.analysis.results import Coefficient
from orchestrator.analysis.rows import cell_numbers

CONTROL = "robust_loss_train"
"""What partial correlations hold: a network that fits its training images less has a smaller gap for that alone."""
UNTELLABLE = "the values are too near to one another, or too far apart, for floating point"
Key = tuple[str, str]


@dataclass(frozen=True)
class Five:
    """The coefficients of a pair that have an interval."""

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    partial_pearson: Coefficient
    partial_spearman: Coefficient


def coefficients_of(
    rows: pd.DataFrame, measures: Sequence[str], targets: Sequence[str], *, resamples: int, level: float, seed: int
) -> dict[Key, Five]:
    """Pearson, Spearman, Kendall, and Pearson and Spearman given the training robust loss, of every pair.

    Pairs that use the same rows are resampled together, and share their draws.

    Args:
        rows: As `rows.usable_rows` gives them, with all columns that are named.
        measures: Columns.
        targets: Columns.
        resamples: At least 1.
        level: Of the intervals, in (0, 1).
        seed: Of the draws.

    Returns:
        By (measure, target).
    """
    finite = {name: np.isfinite(rows[name].to_numpy()) for name in {*measures, *targets, CONTROL} if name in rows}
    plain: dict[Hashable, list[Key]] = {}
    partial: dict[Hashable, list[Key]] = {}
    masks: dict[Hashable, Any] = {}
    found: dict[Key, list[Coefficient]] = {}
    for target in targets:
        for measure in measures:
            key = measure, target
            found[key] = [Coefficient(None)] * 5
            for tasks, used in (
                (plain, finite[measure] & finite[target]),
                (partial, finite[measure] & finite[target] & finite[CONTROL] if CONTROL in finite else None),
            ):
                reason = _no_partial(measure, target, used) if tasks is partial else None
                if reason or used is None:
                    found[key][3:] = [Coefficient(None, reason=reason)] * 2
                    continue
                mask = used.tobytes()
                masks[mask] = used
                tasks.setdefault(mask, []).append(key)
    for mask, used in masks.items():
        drawn = drawn_units(cell_numbers(rows[used]), resamples, seed)
        samples = _Samples.of(rows[used], plain.get(mask, []), partial.get(mask, []), drawn, level)
        for key in plain.get(mask, []):
            found[key][:3] = samples.plain(*key)
        for key in partial.get(mask, []):
            found[key][3:] = samples.partial(*key)
    return {key: Five(*values) for key, values in found.items()}


def _no_partial(measure: str, target: str, used: Any) -> str | None:
    """Why there can be no partial correlation, whatever the values."""
    if used is None:
        return f"the table has no {CONTROL}"
    if CONTROL in (measure, target):
        return f"{CONTROL} is what would be held"
    return None


@dataclass(frozen=True)
class _Samples:
    """Some rows, and the coefficients of their resamples by left and right column."""

    rows: pd.DataFrame
    units: int
    level: float
    values: Mapping[Key, Floats]
    """Shape (3, b) each."""

    @classmethod
    def of(
        cls, rows: pd.DataFrame, plain: Sequence[Key], partial: Sequence[Key], drawn: tuple[Ints, Ints], level: float
    ) -> "_Samples":
        keys = [*plain, *partial]
        control = [CONTROL] if partial else []
        left, right = (list(dict.fromkeys([*(key[side] for key in keys), *control])) for side in (0, 1))
        units, counts = drawn
        values: dict[Key, Floats] = {}
        if len(rows) >= 3 and counts.shape[1] > 1:
            x, y = (rows[names].to_numpy().T for names in (left, right))
            samples = resampled_coefficients(x, y, units, counts)
            values = {(a, b): samples[:, i, j] for i, a in enumerate(left) for j, b in enumerate(right)}
        return cls(rows, counts.shape[1], level, values)

    def plain(self, measure: str, target: str) -> list[Coefficient]:
        """All three coefficients of a pair, with their intervals."""
        values = self.estimates(measure, target)
        if isinstance(values, str):
            return [Coefficient(None, reason=values)] * 3
        return [self.with_interval(value, at, (measure, target)) for at, value in enumerate(values)]

    def partial(self, measure: str, target: str) -> list[Coefficient]:
        """Pearson and Spearman given the control."""
        found = []
        for key in ((measure, target), (measure, CONTROL), (target, CONTROL)):
            values = self.estimates(*key)
            if isinstance(values, str):
                return [Coefficient(None, reason=values)] * 2
            found.append(values)
        coefficients = []
        for at in range(2):
            value = partial_correlation(*(np.asarray(each[at]) for each in found))
            if not np.isfinite(value):
                reason = f"{CONTROL} explains {measure} or {target} entirely"
                coefficients.append(Coefficient(None, reason=reason))
                continue
            coefficients.append(self.with_interval(float(value), at, (measure, target), controlled=True))
        return coefficients

    def estimates(self, measure: str, target: str) -> tuple[float, float, float] | str:
        """The coefficients of the rows, or why there are none, in the columns' names."""
        values = point_estimates(self.rows[measure].to_numpy(), self.rows[target].to_numpy())
        if isinstance(values, str):
            return values.replace("the measure", measure).replace("the target", target)
        return values

    def with_interval(self, value: float, at: int, key: Key, controlled: bool = False) -> Coefficient:
        """The coefficient number `at` of a pair, with the interval that its resamples give."""
        if not math.isfinite(value):
            return Coefficient(None, reason=UNTELLABLE)
        if not self.values:
            return Coefficient(value, reason="all networks are in one cell, and the interval resamples cells")
        samples = self.values[key][at]
        if controlled:
            measure, target = key
            samples = partial_correlation(samples, self.values[measure, CONTROL][at], self.values[CONTROL, target][at])
        return with_interval(value, samples, self.level, self.units)
