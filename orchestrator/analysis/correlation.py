"""Correlation of flatness and other measures with the robust generalisation gap, over finished trials (SCIENCE.md 8).

Works on a table that someone else has read; knows nothing of MLflow or files. Rows that cannot be used are listed.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from orchestrator.analysis.bootstrap import Floats, Ints, resampled_coefficients, scaled
from orchestrator.errors import UserError, suggest

CELL = ("method", "regularizer", "setting")
GROUP = (*CELL, "checkpoint")
"""What networks that differ by their seed alone share; a trial's last and best network are two groups of one cell."""
LABELS = ("trial_id", "checkpoint", "method", "method_name", "regularizer", "setting", "seed")
TARGETS = ("robust_loss_gap", "robust_error_gap", "robust_loss_test", "robust_error_test")
FLATNESS = ("average_flatness", "worst_flatness")

ROUNDING = 1e-12
"""Relative differences below this are taken for the rounding of float64."""
FEW_CELLS = 10
"""Below so many cells the result warns that its intervals are too narrow."""


@dataclass(frozen=True)
class Coefficient:
    """One coefficient in [-1, 1] with its bootstrap interval; `reason` says why a part is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    skipped: int = 0
    """Resamples without a value, because a variable was constant in them."""
    reason: str | None = None


@dataclass(frozen=True)
class Pair:
    """One measure against one target."""

    measure: str
    target: str
    networks: int
    cells: int
    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient

    def sentence(self) -> str:
        """What the pair says about the question, in one sentence that claims no more than the interval does."""
        tau = self.kendall
        if tau.value is None:
            return f"No answer on {self.target} and {self.measure}: {tau.reason}."
        over = f"Over {count(self.networks, 'network')} in {count(self.cells, 'cell')}"
        if tau.low is None or tau.high is None:
            return (
                f"{over}, Kendall tau of {self.target} and {self.measure} is {tau.value:.2f}, "
                f"without an interval: {tau.reason}."
            )
        numbers = f"Kendall tau {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
        if tau.low <= 0 <= tau.high:
            return (
                f"{over}, it stays open whether {self.target} goes with {self.measure}: "
                f"{numbers}, and the interval contains 0."
            )
        verb = "goes with" if tau.low > 0 else "goes against"
        return f"{over}, {self.target} {verb} {self.measure}: {numbers}."


@dataclass(frozen=True)
class Spread:
    """Seed noise of one column beside the differences between cells, in the column's unit."""

    column: str
    networks: int
    cells: int
    within_cell_sd: float | None
    """Pooled over cells with at least two seeds, each with its degrees of freedom."""
    between_cell_sd: float | None
    """Standard deviation of the cell means; seed noise, divided by the seeds in a cell, is part of it."""
    reason: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A row that was not used, for every column or for one."""

    trial_id: str
    label: str
    column: str | None
    """The column without a usable value; None where the whole row was left out."""
    reason: str


@dataclass(frozen=True)
class CorrelationResult:
    """Every pair, target by target, with what was left out and what to keep in mind."""

    networks: int
    cells: int
    resamples: int
    level: float
    seed: int
    pairs: tuple[Pair, ...]
    spreads: tuple[Spread, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The sentence that answers the question, for the first pair."""
        return self.pairs[0].sentence()

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None, without NaN: ready for `json.dumps(..., allow_nan=False)`."""
        return {"answer": self.answer} | asdict(self)


def correlate(
    table: pd.DataFrame,
    measures: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> CorrelationResult:
    """Pearson r, Spearman rho and Kendall tau-b of every measure with every target, with cluster-bootstrap intervals.

    The interval is the percentile bootstrap over cells: as many (method, regularizer, setting) cells as there are are
    drawn with replacement, each with all its seeds, because seeds of a cell are no independent evidence. All pairs
    over the same cells share their draws. In simulations of Gaussian cells (5, 9 and 20 cells of 2-5 seeds, 400
    tables each), nominal 95 % intervals covered in 83-96 % of cases, bias-corrected accelerated ones (BCa) in 81-95 %,
    never clearly better: so the simpler one is used. With few cells, read it as too narrow.

    Args:
        table: One row per network of a finished trial, with the columns of `LABELS` and value columns; losses and
            flatness in nats, errors as fractions. NaN and infinite values are left out, pair by pair, and listed.
            Networks of one trial are in one cell, and so resampled together.
        measures: Columns to explain with; by default every average- and worst-case flatness.
        targets: Columns to be explained; by default those of `TARGETS` that are there.
        resamples: Bootstrap resamples, at least 1.
        level: Of the intervals, in (0, 1).
        seed: Of the resampling, at least 0; the same seed and table give the same result.

    Returns:
        One pair per target and measure, targets outermost. What cannot be computed is None, with a reason.

    Raises:
        UserError: A column is not there or holds no numbers, or a setting is out of range.

    Source: SCIENCE.md 8; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Kendall (1945).
    """
    if resamples < 1:
        raise UserError(f"resamples is {resamples}: give at least 1")
    if not 0 < level < 1:
        raise UserError(f"level is {level:g}: give a number between 0 and 1, such as 0.95")
    if seed < 0:
        raise UserError(f"the seed of the bootstrap is {seed}: give 0 or more")
    measures = _columns(table, measures, flatness_columns(table), "measure")
    targets = _columns(table, targets, [c for c in TARGETS if c in table], "target")
    columns = list(dict.fromkeys([*measures, *targets]))
    rows, left_out = usable_rows(table, columns)

    pairs = tuple(_pair(rows, measure, target, resamples, level, seed) for target in targets for measure in measures)
    return CorrelationResult(
        networks=len(rows),
        cells=len(rows[list(CELL)].drop_duplicates()),
        resamples=resamples,
        level=level,
        seed=seed,
        pairs=pairs,
        spreads=tuple(_spread(rows, column) for column in columns),
        left_out=tuple(left_out),
        notes=tuple(_notes(rows, pairs)),
    )


def flatness_columns(table: pd.DataFrame) -> list[str]:
    """Columns with average- or worst-case flatness, without standard errors."""
    return [name for name in map(str, table) if name.startswith(FLATNESS) and not name.endswith("_se")]


def usable_rows(table: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The label columns and `columns`, as float64 with NaN for what is not finite, and a list of what is not usable.

    Args:
        table: As `correlate` takes it.
        columns: Value columns; each unusable value becomes one entry of the list and NaN in the result.

    Returns:
        One row per network, in the table's order, and what was left out: unusable values, then second rows of one
        network.

    Raises:
        UserError: A label column or one of `columns` is not there, or holds no numbers.
    """
    if missing := [name for name in LABELS if name not in table]:
        raise UserError(f"the table of trials lacks the column '{missing[0]}': it needs {', '.join(LABELS)}")
    rows = table[list(LABELS)].copy()
    absent_values = {"trial_id": "", "checkpoint": "last", "method": "", "regularizer": "none", "setting": ""}
    for name, absent in absent_values.items():
        rows[name] = rows[name].astype(object).where(rows[name].notna(), absent).astype(str)
    left_out = []
    for name in columns:
        values = _numbers(table, name)
        for index in np.flatnonzero(~np.isfinite(values)):
            reason = "missing" if np.isnan(values[index]) else "infinite"
            left_out.append(LeftOut(*_who(rows.iloc[index]), name, reason))
        rows[name] = np.where(np.isfinite(values), values, np.nan)
    again = rows[["trial_id", "checkpoint"]].duplicated()
    left_out += [LeftOut(*_who(row), None, "a second row of this network") for _, row in rows[again].iterrows()]
    return rows[~again].reset_index(drop=True), left_out


def point_estimates(x: Floats, y: Floats) -> tuple[float, float, float] | str:
    """Pearson r, Spearman rho and Kendall tau-b of two finite arrays of shape (n,), or why there are none."""
    if len(x) < 3:
        return f"{len(x)} usable {'network' if len(x) == 1 else 'networks'}, and at least 3 are needed"
    for values, which in ((x, "the measure"), (y, "the target")):
        if _is_constant(values):
            return f"{which} has one and the same value in all {len(x)} networks"
    pearson = stats.pearsonr(scaled(x), scaled(y)).statistic
    return float(pearson), float(stats.spearmanr(x, y).statistic), float(stats.kendalltau(x, y).statistic)


def _pair(rows: pd.DataFrame, measure: str, target: str, resamples: int, level: float, seed: int) -> Pair:
    """All three coefficients of one pair, with their intervals."""
    used = rows[rows[measure].notna() & rows[target].notna()]
    x, y = used[measure].to_numpy(), used[target].to_numpy()
    cells = used.groupby(list(CELL)).ngroup().to_numpy().astype(np.int64)
    k = len(np.unique(cells))
    values = point_estimates(x, y)
    if isinstance(values, str):
        reason = values.replace("the measure", measure).replace("the target", target)
        coefficients = [Coefficient(None, reason=reason)] * 3
    elif k == 1:
        reason = "all networks are in one cell, and the interval resamples cells"
        coefficients = [Coefficient(value, reason=reason) for value in values]
    else:
        generator = np.random.default_rng(seed)
        counts: Ints = generator.multinomial(k, np.full(k, 1 / k), size=resamples).astype(np.int64)
        samples = resampled_coefficients(x, y, cells, counts)
        coefficients = [_with_interval(value, sample, level) for value, sample in zip(values, samples, strict=True)]
    return Pair(measure, target, len(used), k, *coefficients)


def _with_interval(value: float, samples: Floats, level: float) -> Coefficient:
    """The percentile interval of the resamples that have a value."""
    if not math.isfinite(value):
        return Coefficient(None, reason="the values are too near to one another, or too far apart, for floating point")
    kept = samples[np.isfinite(samples)]
    skipped = len(samples) - len(kept)
    if not len(kept):
        return Coefficient(value, skipped=skipped, reason="a variable was constant in every resample")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Coefficient(value, float(low), float(high), skipped)


def _spread(rows: pd.DataFrame, column: str) -> Spread:
    """One-way analysis of variance by cell (and checkpoint), as two standard deviations."""
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


def _notes(rows: pd.DataFrame, pairs: Sequence[Pair]) -> list[str]:
    """What a reader has to keep in mind, one line each."""
    notes = []
    if flatness_columns(rows[[pair.measure for pair in pairs]]):
        notes.append(
            "A larger flatness value means a sharper robust loss: a positive coefficient says that "
            "flatter networks have the smaller target."
        )
    with_interval = [pair for pair in pairs if pair.kendall.low is not None]
    if with_interval and (fewest := min(pair.cells for pair in with_interval)) < FEW_CELLS:
        notes.append(f"With few cells ({fewest}) the intervals are too narrow: read them as optimistic.")
    for pair in pairs:
        for name in ("Pearson", "Spearman", "Kendall"):
            item: Coefficient = getattr(pair, name.lower())
            where = f"{pair.target} and {pair.measure}, {name}"
            if item.reason:
                notes.append(f"{where}: {'no value' if item.value is None else 'no interval'}: {item.reason}.")
            elif item.low is not None and item.high is not None and item.high - item.low <= ROUNDING:
                notes.append(f"{where}: every resample gives {item.low:.3g}, so the interval says nothing.")
            if item.skipped:
                notes.append(f"{where}: {count(item.skipped, 'resample')} skipped, a variable was constant in them.")
    repeated = rows[rows.duplicated([*GROUP, "seed"], keep=False)]
    for _, group in repeated.groupby([*GROUP, "seed"]):
        ids = ", ".join(group["trial_id"])
        notes.append(f"{_who(group.iloc[0])[1]} is there {len(group)} times, all are used: {ids}.")
    return notes


def _columns(table: pd.DataFrame, asked: Sequence[str] | None, default: Sequence[str], kind: str) -> list[str]:
    """The columns asked for, once each, or the default; checked."""
    names = list(dict.fromkeys(default if asked is None else asked))
    if not names:
        raise UserError(f"no {kind} to correlate: the table of trials has none of the usual columns; name some")
    for name in names:
        _numbers(table, name)
    return names


def _numbers(table: pd.DataFrame, name: str) -> Floats:
    """A column as float64, NaN where there is no number."""
    if name not in table:
        known = [str(c) for c in table if c not in LABELS and pd.api.types.is_numeric_dtype(table[c])]
        raise UserError(f"the table of trials has no column '{name}': {suggest(name, known)}")
    values = np.asarray(pd.to_numeric(table[name], errors="coerce").astype("float64"), dtype=np.float64)
    if table[name].notna().any() and np.isnan(values).all() and not pd.api.types.is_numeric_dtype(table[name]):
        raise UserError(f"the column '{name}' of the table of trials holds text, not numbers")
    return values


def _who(row: "pd.Series[Any]") -> tuple[str, str]:
    """A trial's id, and its network's label for people."""
    parts = [row["method"], row["regularizer"], row["setting"], f"seed {row['seed']}"]
    if row["checkpoint"] != "last":
        parts.append(row["checkpoint"])
    return str(row["trial_id"]), " | ".join(str(part) for part in parts if part)


def _is_constant(values: Floats) -> bool:
    """Whether all are equal up to the rounding of float64, where the ranks would be those of noise."""
    low, high = values.min() / 2, values.max() / 2
    return bool(high - low <= ROUNDING * max(abs(low), abs(high)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def count(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
