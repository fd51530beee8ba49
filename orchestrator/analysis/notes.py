"""What a reader of a correlation has to keep in mind, one line each."""

from collections.abc import Iterator, Sequence

import pandas as pd

from orchestrator.analysis.coefficients import CONTROL
from orchestrator.analysis.estimates import ROUNDING
from orchestrator.analysis.results import Coefficient, Pair
from orchestrator.analysis.rows import GROUP, count, flatness_columns, who

DIRECTION = (
    "A larger flatness value means a sharper robust loss: a positive coefficient says that flatter networks have the "
    "smaller target."
)
FEW_CELLS = 10
"""Below so many cells the result says that intervals are only roughly right."""
NAMED = 4
"""Pairs that a note names before it counts the rest."""
COEFFICIENTS = {"Pearson": "pearson", "Spearman": "spearman", "Kendall": "kendall"}


def notes_on(rows: pd.DataFrame, pairs: Sequence[Pair]) -> Iterator[str]:
    """Notes on the direction, on few cells, on what has no value or no interval, and on networks that are there twice.

    Args:
        rows: As `rows.usable_rows` gives them.
        pairs: All pairs over these rows.
    """
    if flatness_columns(rows[list(dict.fromkeys(pair.measure for pair in pairs))]):
        yield DIRECTION
    yield from _few_cells(pairs)
    yield from _absent(pairs)
    partial = [pair for pair in pairs if pair.partial_pearson.value is not None]
    if partial and (without := int(rows[CONTROL].isna().sum())):
        yield f"{count(without, 'network')} without {CONTROL}: coefficients given it do not use them."
    for pair in pairs:
        for name, key in COEFFICIENTS.items():
            item: Coefficient = getattr(pair, key)
            where = f"{pair.target} and {pair.measure}, {name}"
            if item.low is not None and item.high is not None and item.high - item.low <= ROUNDING:
                yield f"{where}: every resample gives {item.low:.3g}, so the interval says nothing."
            if item.skipped:
                yield f"{where}: {count(item.skipped, 'resample')} skipped, a variable was constant in them."
    repeated = rows[rows.duplicated([*GROUP, "seed"], keep=False)]
    for _, group in repeated.groupby([*GROUP, "seed"]):
        ids = ", ".join(group["trial_id"])
        yield f"{who(group)[0][1]} is there {len(group)} times, all are used: {ids}."


def _few_cells(pairs: Sequence[Pair]) -> Iterator[str]:
    with_interval = [pair for pair in pairs if pair.kendall.low is not None]
    fewest = min((pair.cells for pair in with_interval), default=FEW_CELLS)
    if fewest < FEW_CELLS:
        yield (
            f"With few cells ({fewest}) the intervals are only roughly right, and for other than normal values "
            "too narrow: read them as optimistic."
        )
    smallest = [pair.p.smallest for pair in pairs if pair.p.smallest is not None and pair.p.smallest > 0.05]
    if smallest:
        yield f"With so few cells no p-value can be below {max(smallest):.2g}, whatever the measurements."


def _absent(pairs: Sequence[Pair]) -> Iterator[str]:
    """Coefficients without a value or an interval, by their reason."""
    by_reason: dict[tuple[str, str], dict[str, list[str]]] = {}
    for pair in pairs:
        for name, key in COEFFICIENTS.items():
            item: Coefficient = getattr(pair, key)
            if item.reason:
                what = "no value" if item.value is None else "no interval"
                by_reason.setdefault((what, item.reason), {}).setdefault(
                    f"{pair.target} and {pair.measure}", []
                ).append(name)
    for (what, reason), where in by_reason.items():
        names = [name + ("" if len(found) == len(COEFFICIENTS) else f", {', '.join(found)}")
                 for name, found in where.items()]  # fmt: skip
        more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{'; '.join(names[:NAMED])}{more}: {what}: {reason}."
