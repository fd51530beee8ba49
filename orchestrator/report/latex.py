"""A table for a paper: mean and standard deviation over seeds by method and regulariser, in LaTeX with booktabs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis.columns import SE, column_of
from orchestrator.analysis.correlation import GROUP, TARGETS, flatness_columns
from orchestrator.analysis.table import compared
from orchestrator.errors import UserError, suggest
from orchestrator.spec.measures import KINDS
from workers import layout

USUAL = ("clean_error_test", "robust_error_test", "robust_loss_test", "robust_loss_gap", "robust_error_gap")
"""Shown with every flatness, if they are recorded."""
PERCENT = 100.0
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{char: rf"\{char}" for char in "&%$#_{}"},
}
GREEK = {"\N{GREEK SMALL LETTER XI}": r"$\xi$", "\N{MINUS SIGN}": "$-$"}
CONTROL = dict.fromkeys((*range(32), 127), " ")


@dataclass(frozen=True)
class Entry:
    """One column over the seeds of one group."""

    seeds: int
    """With a value."""
    mean: float | None
    """None where no seed has a value."""
    deviation: float | None
    """With n - 1; None for fewer than two seeds."""


@dataclass(frozen=True)
class Row:
    """Networks that differ by their seed alone."""

    method: str
    regularizer: str
    setting: str
    checkpoint: str
    seeds: int
    entries: tuple[Entry, ...]


def latex_table(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """The table as text, to be put between `\\begin{table}` and `\\end{table}`; it needs the package booktabs.

    A row for each method, regulariser, setting and network (last epoch, early-stopped) with a finished trial. Errors
    are in per cent. In bold: the smallest mean of a column, as printed, where smaller is better: of losses, errors,
    gaps and flatness.

    Args:
        table: as `analysis.table.trial_table` makes it.
        columns: value columns; the usual ones if not given.

    Raises:
        UserError: no trial has finished, or there is no such column, or none of the usual ones.
    """
    networks = compared(table)
    if networks.empty:
        raise UserError("no trial has finished yet: there is no table to make")
    names = list(columns) if columns is not None else usual(networks)
    if not names:
        raise UserError("the table of trials has none of the usual columns")
    for name in names:
        if name not in networks or not pd.api.types.is_numeric_dtype(networks[name]):
            numeric = [str(column) for column in networks if pd.api.types.is_numeric_dtype(networks[column])]
            raise UserError(f"the table of trials has no column of numbers '{name}': {suggest(name, numeric)}")
    rows = _rows(networks, names)
    labels = _label_columns(rows)
    texts = [_column(name, rows, place) for place, name in enumerate(names)]
    heads = [*(head for head, _ in labels), "$n$", *(_head(name) for name in names)]
    lines = [
        "% Mean and standard deviation over n seeds; needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{{'l' * len(labels)}r{'c' * len(names)}}}",
        "\\toprule",
        " & ".join(heads) + r" \\",
        "\\midrule",
    ]
    for place, row in enumerate(rows):
        new = place == 0 or rows[place - 1].method != row.method
        if new and place:
            lines.append("\\addlinespace")
        shown = [getattr(row, field) if field != "method" or new else "" for _, field in labels]
        lines.append(" & ".join([*map(escape, shown), str(row.seeds), *(column[place] for column in texts)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def usual(networks: pd.DataFrame) -> list[str]:
    """The columns of `USUAL` and every flatness, as far as they hold a number."""
    names = [*USUAL, *flatness_columns(networks)]
    return [name for name in names if name in networks and networks[name].notna().any()]


def escape(text: str) -> str:
    """Text as LaTeX prints it, whatever is in it."""
    escaped = "".join(SPECIAL.get(char, GREEK.get(char, char)) for char in text.translate(CONTROL))
    # at the beginning of a row these would belong to the command that ended the one before
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def _rows(networks: pd.DataFrame, names: Sequence[str]) -> list[Row]:
    rows = []
    filled = networks.fillna({"setting": ""})
    for (method, regularizer, setting, checkpoint), group in filled.groupby(list(GROUP), sort=False):
        entries = tuple(_entry(name, group[name]) for name in names)
        name = "early-stopped" if checkpoint == layout.BEST else "last"
        rows.append(Row(str(method), str(regularizer), str(setting), name, len(group), entries))
    order = {method: place for place, method in enumerate(dict.fromkeys(row.method for row in rows))}
    return sorted(rows, key=lambda row: order[row.method])


def _entry(name: str, values: "pd.Series[float]") -> Entry:
    numbers = [float(value) * _factor(name) for value in values.dropna() if math.isfinite(value)]
    if not numbers:
        return Entry(0, None, None)
    series = pd.Series(numbers)
    return Entry(len(numbers), float(series.mean()), float(series.std(ddof=1)) if len(numbers) > 1 else None)


def _factor(name: str) -> float:
    return PERCENT if column_of(name).unit == "fraction" else 1.0


def _label_columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Heading and field of the columns that say which row it is; those in which nothing varies are left out."""
    fields = [("Method", "method"), ("Regulariser", "regularizer"), ("Setting", "setting"), ("Network", "checkpoint")]
    varying = [(head, field) for head, field in fields[2:] if len({getattr(row, field) for row in rows}) > 1]
    return [*fields[:2], *varying]


def _column(name: str, rows: Sequence[Row], place: int) -> list[str]:
    """One column's cells, all with the decimals that show two digits of the usual deviation.

    Where fewer seeds have a value than the row has, their number stands beside it.
    """
    entries = [row.entries[place] for row in rows]
    decimals = _decimals(entries)
    printed = [None if entry.mean is None else f"{entry.mean:.{decimals}f}" for entry in entries]
    lower_is_better = name in TARGETS or name.startswith((*KINDS, "average_flatness", "worst_flatness"))
    numbers = [float(text) for text in printed if text is not None]
    best = min(numbers) if lower_is_better and len(set(numbers)) > 1 and not name.endswith(SE) else None
    cells = []
    for text, entry, row in zip(printed, entries, rows, strict=True):
        if text is None:
            cells.append("--")
            continue
        mean = rf"\mathbf{{{text}}}" if best is not None and float(text) == best else text
        spread = "" if entry.deviation is None else rf" \pm {entry.deviation:.{decimals}f}"
        fewer = f" ({entry.seeds})" if entry.seeds < row.seeds else ""
        cells.append(f"${mean}{spread}${fewer}")
    return cells


def _decimals(entries: Sequence[Entry]) -> int:
    spreads = [entry.deviation for entry in entries if entry.deviation]
    sizes = spreads or [abs(entry.mean) / 10 for entry in entries if entry.mean]
    if not sizes:
        return 2
    return min(max(1 - math.floor(math.log10(float(pd.Series(sizes).median()))), 0), 6)


def _head(name: str) -> str:
    column = column_of(name)
    unit = r"\%" if column.unit == "fraction" else escape(column.unit)
    return escape(column.label.replace(", test \N{MINUS SIGN} train", "")) + (f" ({unit})" if unit else "")
