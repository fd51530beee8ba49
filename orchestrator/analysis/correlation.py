"""Correlation of flatness and other measures with the robust generalisation gap, over finished trials (SCIENCE.md 8).

Works on a table that someone else has read; knows nothing of MLflow or files. Rows that cannot be used are listed.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.axes import varied_axes
from orchestrator.analysis.bootstrap import Ints
from orchestrator.analysis.coefficients import CONTROL, Coefficients, Key, coefficients_of
from orchestrator.analysis.estimates import point_estimates
from orchestrator.analysis.granulated import Signs, granulated, groups_along
from orchestrator.analysis.notes import notes_on
from orchestrator.analysis.results import (
    Coefficient,
    CorrelationResult,
    Granulated,
    Pair,
    PValue,
    SignError,
    Spread,
)
from orchestrator.analysis.rows import (
    CELL,
    GROUP,
    LABELS,
    TARGETS,
    LeftOut,
    cell_numbers,
    chosen_columns,
    count,
    flatness_columns,
    measure_columns,
    usable_rows,
)
from orchestrator.analysis.sign_error import (
    MIN_EFFECTIVE,
    Comparisons,
    Environments,
    comparisons,
    environments,
    examples_behind,
    noise_columns,
    robust_sign_error,
)
from orchestrator.analysis.spread import spreads_of
from orchestrator.analysis.testing import cell_permutation_test, holm
from orchestrator.errors import UserError, suggest

__all__ = [
    "CELL", "GROUP", "LABELS", "TARGETS", "Coefficient", "CorrelationResult", "LeftOut", "Pair", "Spread", "correlate",
    "correlate_by", "count", "flatness_columns", "measure_columns", "point_estimates", "usable_rows",
]  # fmt: skip

MAX_GROUPS = 50


@dataclass(frozen=True)
class Settings:
    """How to correlate; ranges as `correlate` says."""

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0
    min_effective: float = MIN_EFFECTIVE

    def check(self) -> None:
        """Raises:
        UserError: A setting is out of range.
        """
        if self.resamples < 1:
            raise UserError(f"resamples is {self.resamples}: give at least 1")
        if not 0 < self.level < 1:
            raise UserError(f"level is {self.level:g}: give a number between 0 and 1, such as 0.95")
        if self.seed < 0:
            raise UserError(f"the seed of the bootstrap is {self.seed}: give 0 or more")
        if not 0 < self.min_effective < math.inf:
            raise UserError(f"min_effective is {self.min_effective:g}: give a number above 0, such as 12")


def correlate(
    table: pd.DataFrame,
    measures: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    min_effective: float = MIN_EFFECTIVE,
) -> CorrelationResult:
    """Every measure against every target, with intervals and tests that take cells, not seeds, for evidence.

    Pearson r, Spearman rho, Kendall tau-b and the partial correlations given the training robust loss have intervals
    from a bootstrap over cells: as many (method, regularizer, setting) cells as there are are drawn with replacement,
    each with all its seeds (`estimates.with_interval`). All pairs over the same networks share their draws. Beside
    them: a p-value and its Holm correction over all pairs (`testing`), the granulated Psi (`granulated`), the robust
    sign-error (`sign_error`), and the range of tau when single methods are left out (`sensitivity`). What each number
    means, and how often intervals cover in simulations: docs/statistics.md.

    Args:
        table: One row per network of a finished trial, with the columns of `LABELS` and value columns; losses and
            flatness in nats, errors as fractions. NaN and infinite values are left out, pair by pair, and listed.
            Networks of one trial are in one cell, and so resampled together.
        measures: Columns to explain with; by default everything measured that is no outcome, flatness first
            (`rows.measure_columns`).
        targets: Columns to be explained; by default those of `TARGETS` that are there.
        resamples: Bootstrap resamples, at least 1.
        level: Of the intervals, in (0, 1).
        seed: Of the resampling, at least 0; the same seed and table give the same result.
        min_effective: Effective pairs of networks that an environment of the sign-error needs, above 0.

    Returns:
        One pair per target and measure, targets outermost. What cannot be computed is None, with a reason.

    Raises:
        UserError: A column is not there or holds no numbers, or a setting is out of range.

    Source: SCIENCE.md 8; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 12 and 13.
    """
    settings = Settings(resamples, level, seed, min_effective)
    settings.check()
    measures = chosen_columns(table, measures, measure_columns(table), "measure")
    targets = chosen_columns(table, targets, [name for name in TARGETS if name in table], "target")
    columns = list(dict.fromkeys([*measures, *targets]))
    rows, left_out = usable_rows(table, columns)
    beside = [CONTROL, *(name for target in targets for name in noise_columns(target))]
    extras, _ = usable_rows(table, [name for name in dict.fromkeys(beside) if name in table and name not in columns])
    rows = pd.concat([rows, extras.drop(columns=list(LABELS))], axis=1)

    with ThreadPoolExecutor(1) as thread:  # numpy lets go of the interpreter while it computes
        asked = thread.submit(coefficients_of, rows, measures, targets, resamples=resamples, level=level, seed=seed)
        by_grid = _by_grid(rows, measures, targets, settings)
        coefficients = asked.result()
    cells = cell_numbers(rows)
    pairs = _holm_corrected(tuple(_pair(rows, cells, key, coefficients[key], found) for key, found in by_grid.items()))
    return CorrelationResult(
        networks=len(rows),
        cells=len(rows[list(CELL)].drop_duplicates()),
        resamples=resamples,
        level=level,
        seed=seed,
        pairs=pairs,
        spreads=tuple(spreads_of(rows, columns)),
        left_out=tuple(left_out),
        notes=tuple(notes_on(rows, pairs)),
    )


def correlate_by(
    table: pd.DataFrame,
    by: str,
    measures: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    **settings: Any,
) -> dict[str, CorrelationResult]:
    """`correlate` within each group of rows that share a value of a column; Holm's correction is over all groups.

    Args:
        table: As `correlate` takes it.
        by: A column with at most 50 different values; rows without one are a group of their own, `none`.
        measures: As in `correlate`, from the columns of the whole table.
        targets: Likewise.
        settings: As `correlate` takes them.

    Returns:
        By the column's value, in order of appearance.

    Raises:
        UserError: There is no such column, or it has too many values.
    """
    if by not in table:
        raise UserError(f"the table of trials has no column '{by}': {suggest(by, map(str, table))}")
    measures = chosen_columns(table, measures, measure_columns(table), "measure")
    names = table[by].astype(object).where(table[by].notna(), "none").astype(str)
    if (number := names.nunique()) > MAX_GROUPS:
        raise UserError(f"the column '{by}' has {number} different values; at most {MAX_GROUPS} groups are compared")
    found = {name: correlate(table[names == name], measures, targets, **settings) for name in names.unique()}
    together = iter(_holm_corrected(tuple(pair for result in found.values() for pair in result.pairs)))
    return {name: replace(result, pairs=tuple(next(together) for _ in result.pairs)) for name, result in found.items()}


def _by_grid(
    rows: pd.DataFrame, measures: Sequence[str], targets: Sequence[str], settings: Settings
) -> dict[Key, tuple[Granulated, SignError]]:
    """What is found of each measure and target where one thing alone is varied, targets outermost."""
    axes = varied_axes(rows)
    checkpoint, seed = (pd.factorize(rows[name])[0].astype(np.int64) for name in ("checkpoint", "seed"))
    along = groups_along(axes, [checkpoint, seed], len(rows))
    settled = environments(rows, axes, [checkpoint], settings.min_effective)
    values = {name: rows[name].to_numpy() for name in {*measures, *targets}}
    ordered = {target: Signs.of(values[target], along) for target in targets}
    psi: dict[Key, Granulated] = {}
    for measure in measures:
        signs = Signs.of(values[measure], along)
        psi |= {(measure, target): granulated(signs, ordered[target], along) for target in targets}
    found = {}
    for target in targets:
        compared = _compared(rows, target, settled)
        for measure in measures:
            wrong = robust_sign_error(values[measure], settled, compared, settings.min_effective)
            found[measure, target] = psi[measure, target], wrong
    return found


def _pair(
    rows: pd.DataFrame, cells: Ints, key: Key, coefficients: Coefficients, by_grid: tuple[Granulated, SignError]
) -> Pair:
    """One measure against one target: its coefficients, and how likely they are by chance."""
    measure, target = key
    x, y = rows[measure].to_numpy(), rows[target].to_numpy()
    used = np.isfinite(x) & np.isfinite(y)
    x, y, cells = x[used], y[used], cells[used]
    tau, reason = coefficients.kendall.value, coefficients.kendall.reason
    psi, wrong = by_grid
    return Pair(
        measure,
        target,
        len(x),
        len(np.unique(cells)),
        **vars(coefficients),
        p=PValue(None, reason=reason) if tau is None else cell_permutation_test(x, y, cells),
        granulated=psi,
        sign_error=wrong,
    )


def _compared(rows: pd.DataFrame, target: str, found: Environments) -> Comparisons:
    """The pairs of networks that sign-errors of a target are made of."""
    errors = rows[f"{target}_se"].to_numpy() if f"{target}_se" in rows else None
    return comparisons(rows[target].to_numpy(), found, examples_behind(rows, target), errors)


def _holm_corrected(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The pairs with their p-values corrected for one another."""
    corrected = holm([pair.p.value for pair in pairs])
    return tuple(replace(pair, p=replace(pair.p, holm=value)) for pair, value in zip(pairs, corrected, strict=True))
