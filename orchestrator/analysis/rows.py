"""The rows of a table that can be used, its columns by what they are, and words for both.

A table has one row per network of a finished trial, with the columns of `LABELS` and value columns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.errors import UserError, suggest

CELL = ("method", "regularizer", "setting")
GROUP = (*CELL, "checkpoint")
"""What networks that differ by their seed alone share; a trial's last and best network are two groups of one cell."""
LABELS = ("trial_id", "checkpoint", "method", "method_name", "regularizer", "setting", "seed")
TARGETS = (
    *("robust_loss_gap", "robust_error_gap", "robust_loss_test", "robust_error_test"),
    *("autoattack_error_gap", "autoattack_error_test"),
)
FLATNESS = ("average_flatness", "worst_flatness")

NOT_MEASURED = ("epoch", "attempt", "state", "flags", "error_class", "error", "evaluation_id", "run_id")
"""Columns of a table that say what became of a trial."""
PREFIXES = ("cost_", "train_", "validation_")
"""Of columns that say what training cost and what it said."""
OUTCOME = re.compile(r"_(loss|error)_(train|test|gap)$")
"""Losses and errors of the network as it is: what is to be explained, or a part of it."""


@dataclass(frozen=True)
class LeftOut:
    """A row that was not used, for every column or for one."""

    trial_id: str
    label: str
    column: str | None
    """The column without a usable value; None where the whole row was left out."""
    reason: str


def flatness_columns(table: pd.DataFrame) -> list[str]:
    """Columns with average- or worst-case flatness, without standard errors."""
    return [name for name in map(str, table) if name.startswith(FLATNESS) and not name.endswith("_se")]


def measure_columns(table: pd.DataFrame) -> list[str]:
    """Every measured column that may explain a target: flatness first, then the others in the table's order.

    No label, no cost, nothing that training said, no standard error, and no loss or error of the unperturbed network:
    those are targets, or parts of them.
    """
    flatness = flatness_columns(table)
    others = [
        name
        for name in map(str, table)
        if name not in {*LABELS, *NOT_MEASURED, *TARGETS, *flatness}
        and not name.startswith((*PREFIXES, *FLATNESS))
        and not name.endswith("_se")
        and not OUTCOME.search(name)
        and _holds_numbers(table[name])
    ]
    return [*flatness, *others]


def chosen_columns(table: pd.DataFrame, asked: Sequence[str] | None, default: Sequence[str], kind: str) -> list[str]:
    """The columns asked for, once each, or the default.

    Raises:
        UserError: There is none, one is not there, or one holds no numbers.
    """
    names = list(dict.fromkeys(default if asked is None else asked))
    if not names:
        raise UserError(f"no {kind} to correlate: the table of trials has none of the usual columns; name some")
    for name in names:
        numbers(table, name)
    return names


def usable_rows(table: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The label columns and `columns`, as float64 with NaN for what is not finite, and a list of what is not usable.

    Args:
        table: As `correlation.correlate` takes it.
        columns: Value columns; each unusable value becomes one entry of the list and NaN in the result.

    Returns:
        One row per network, in the table's order, and what was left out: unusable values, then second rows of one
        network.

    Raises:
        UserError: A label column or one of `columns` is not there, or holds no numbers.
    """
    if missing := [name for name in LABELS if name not in table]:
        raise UserError(f"the table of trials lacks the column '{missing[0]}': it needs {', '.join(LABELS)}")
    labels = table[list(LABELS)].copy()
    absent_values = {"trial_id": "", "checkpoint": "last", "method": "", "regularizer": "none", "setting": ""}
    for name, instead in absent_values.items():
        labels[name] = labels[name].astype(object).where(labels[name].notna(), instead).astype(str)
    left_out = []
    kept: dict[str, Floats] = {}
    for name in columns:
        values = numbers(table, name)
        absent = np.flatnonzero(~np.isfinite(values))
        for names, value in zip(who(labels.iloc[absent]), values[absent], strict=True):
            left_out.append(LeftOut(*names, name, "missing" if np.isnan(value) else "infinite"))
        kept[name] = np.where(np.isfinite(values), values, np.nan)
    again = labels[["trial_id", "checkpoint"]].duplicated().to_numpy()
    left_out += [LeftOut(*names, None, "a second row of this network") for names in who(labels[again])]
    rows = pd.concat([labels, pd.DataFrame(kept, index=labels.index)], axis=1)
    return rows[~again].reset_index(drop=True), left_out


def numbers(table: pd.DataFrame, name: str) -> Floats:
    """A column as float64, NaN where there is no number.

    Raises:
        UserError: The column is not there or holds text.
    """
    if name not in table:
        known = [str(column) for column in table if column not in LABELS and _holds_numbers(table[column])]
        raise UserError(f"the table of trials has no column '{name}': {suggest(name, known)}")
    values = np.asarray(pd.to_numeric(table[name], errors="coerce").astype("float64"), dtype=np.float64)
    if table[name].notna().any() and np.isnan(values).all() and not pd.api.types.is_numeric_dtype(table[name]):
        raise UserError(f"the column '{name}' of the table of trials holds text, not numbers")
    return values


def cell_numbers(rows: pd.DataFrame) -> Ints:
    """Each row's cell, in 0..k-1, in the order of the cells' labels."""
    return rows.groupby(list(CELL)).ngroup().to_numpy().astype(np.int64)


def who(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Of each row the trial's id, and the network's label for people: `at | none | seed 0`."""
    labels: list[tuple[str, str]] = []
    if rows.empty:  # of most columns, and pandas takes its time
        return labels
    for trial_id, checkpoint, method, _, regularizer, setting, seed in rows[list(LABELS)].itertuples(index=False):
        parts = [method, regularizer, setting, f"seed {seed}", "" if checkpoint == "last" else checkpoint]
        labels.append((str(trial_id), " | ".join(str(part) for part in parts if part)))
    return labels


def count(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _holds_numbers(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
