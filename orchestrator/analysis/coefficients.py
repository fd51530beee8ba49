"""Coefficients with bootstrap intervals, and without each method, of every measure and target at once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints, resampled_coefficients
from orchestrator.analysis.estimates import MIN_NETWORKS, drawn_units, estimates, why_none, with_interval
from orchestrator.analysis.partial import partial_correlation
from orchestrator.analysis.results import Coefficient, Sensitivity
from orchestrator.analysis.rows import cell_numbers
from orchestrator.analysis.sensitivity import leave_one_method_out

CONTROL = "robust_loss_train"
"""What partial correlations hold: a network that fits its training images less has a smaller gap for that alone."""
UNTELLABLE = "the values are too near to one another, or too far apart, for floating point"
Key = tuple[str, str]


@dataclass(frozen=True)
class Coefficients:
    """Of a pair: those that have an interval, and what they are without each method."""

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    partial_pearson: Coefficient
    partial_spearman: Coefficient
    sensitivity: Sensitivity


def coefficients_of(
    rows: pd.DataFrame, measures: Sequence[str], targets: Sequence[str], *, resamples: int, level: float, seed: int
) -> dict[Key, Coefficients]:
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
    sensitivities: dict[Key, Sensitivity] = {}
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
            found[key][:3], sensitivities[key] = samples.plain(*key), samples.sensitivity(*key)
        for key in partial.get(mask, []):
            found[key][3:] = samples.partial(*key)
    return {
        key: Coefficients(pearson, spearman, kendall, partial_pearson, partial_spearman, sensitivities[key])
        for key, (pearson, spearman, kendall, partial_pearson, partial_spearman) in found.items()
    }


def _no_partial(measure: str, target: str, used: Any) -> str | None:
    """Why there can be no partial correlation, whatever the values."""
    if used is None:
        return f"the table has no {CONTROL}"
    if CONTROL in (measure, target):
        return f"{CONTROL} is what would be held"
    return None


@dataclass(frozen=True)
class _Samples:
    """Some rows, the coefficients of all of them and without each method, and those of their resamples."""

    rows: pd.DataFrame
    units: int
    level: float
    methods: tuple[str, ...]
    networks: tuple[int, ...]
    """How many are left without each method."""
    points: Mapping[Key, Floats]
    """By left and right column; shape (3, 1 + methods): of all networks, then without each method."""
    values: Mapping[Key, Floats]
    """Of resamples, shape (3, b); nothing where there is one cell."""

    @classmethod
    def of(
        cls, rows: pd.DataFrame, plain: Sequence[Key], partial: Sequence[Key], drawn: tuple[Ints, Ints], level: float
    ) -> "_Samples":
        control = [CONTROL] if partial else []
        left, right = (list(dict.fromkeys([*(key[side] for key in (*plain, *partial)), *control])) for side in (0, 1))
        # tau is not wanted of the pairs that are there for a partial correlation alone
        with_tau = len({key[0] for key in plain}), len({key[1] for key in plain})
        x, y = (rows[names].to_numpy().T for names in (left, right))
        number, methods = pd.factorize(rows["method_name"].astype(str))
        units, counts = drawn
        samples = None
        with ThreadPoolExecutor(1) as beside:  # numpy lets go of the interpreter while it computes
            all_networks = beside.submit(estimates, x, y, number.astype(np.int64), with_tau=with_tau)
            if len(rows) >= MIN_NETWORKS and counts.shape[1] > 1:
                samples = resampled_coefficients(x, y, units, counts, with_tau=with_tau)
            points = all_networks.result()
        places = {(a, b): (i, j) for i, a in enumerate(left) for j, b in enumerate(right)}
        return cls(
            rows,
            counts.shape[1],
            level,
            tuple(map(str, methods)),
            tuple((len(rows) - np.bincount(number, minlength=len(methods))).tolist()),
            {key: points[:, i, j] for key, (i, j) in places.items()},
            {} if samples is None else {key: samples[:, i, j] for key, (i, j) in places.items()},
        )

    def plain(self, measure: str, target: str) -> list[Coefficient]:
        """All three coefficients of a pair, with their intervals."""
        values = self.estimates(measure, target)
        if isinstance(values, str):
            return [Coefficient(None, reason=values)] * 3
        return [self.with_interval(value, at, (measure, target)) for at, value in enumerate(values)]

    def partial(self, measure: str, target: str) -> list[Coefficient]:
        """Pearson and Spearman given the control."""
        found = []
        for key in ((measure, target), (measure, CONTROL), (CONTROL, target)):
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

    def sensitivity(self, measure: str, target: str) -> Sensitivity:
        """What the coefficients of a pair are without each method."""
        values = self.estimates(measure, target)
        if isinstance(values, str) or not math.isfinite(values[2]):
            return Sensitivity(None, reason=values if isinstance(values, str) else UNTELLABLE)
        return leave_one_method_out(self.methods, self.networks, self.points[measure, target][:, 1:], values[2])

    def estimates(self, measure: str, target: str) -> tuple[float, float, float] | str:
        """The coefficients of the rows, or why there are none, in the columns' names."""
        reason = why_none(self.rows[measure].to_numpy(), self.rows[target].to_numpy())
        if reason:
            return reason.replace("the measure", measure).replace("the target", target)
        pearson, spearman, kendall = self.points[measure, target][:, 0].tolist()
        return pearson, spearman, kendall

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
