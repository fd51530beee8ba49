"""The answer that a report opens with, the matrix of coefficients, and how far the sweep has come."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis.columns import words
from orchestrator.analysis.correlation import CELL, CorrelationResult, Pair, correlate, measure_columns
from orchestrator.analysis.table import compared, one_per_trial
from orchestrator.errors import UserError

STATES = ("finished", "running", "pending", "interrupted", "failed", "missing", "measured otherwise")
"""In the order of tables."""


@dataclass(frozen=True)
class Conclusion:
    """What the sweep answers, and the coefficients behind it; no result where there is nothing to correlate."""

    sentence: str
    result: CorrelationResult | None

    @property
    def first(self) -> Pair | None:
        """The pair that the sentence is about."""
        return self.result.pairs[0] if self.result else None

    @property
    def targets(self) -> list[str]:
        """Columns that are explained, in order."""
        return list(dict.fromkeys(pair.target for pair in self.result.pairs)) if self.result else []

    @property
    def measures(self) -> list[str]:
        """Columns that explain, in order."""
        return list(dict.fromkeys(pair.measure for pair in self.result.pairs)) if self.result else []

    def pair(self, measure: str, target: str) -> Pair | None:
        """The coefficients of one measure with one target."""
        pairs = self.result.pairs if self.result else ()
        return next((pair for pair in pairs if (pair.measure, pair.target) == (measure, target)), None)


def conclude(table: pd.DataFrame, result: CorrelationResult | None = None, refused: Sequence[str] = ()) -> Conclusion:
    """The answer over the last and best networks of finished trials; a sentence says why where there is none.

    Args:
        table: as `analysis.table.trial_table` makes it.
        result: of `correlate` over these networks, if it is known already.
        refused: why these networks may not be compared.
    """
    usable = compared(table)
    if usable.empty:
        return Conclusion(f"No answer yet: no trial has finished ({progress(table)}).", None)
    if refused:
        return Conclusion(f"No answer, as these trials are not comparable: {'; '.join(refused)}.", None)
    if not measure_columns(usable):
        return Conclusion("No answer: no value of flatness, or of another such measure, is recorded.", None)
    try:
        found = result or correlate(usable)
    except UserError as error:
        return Conclusion(f"No answer: {error}.", None)
    return Conclusion(readable(found.answer, found.pairs[0]), found)


def readable(sentence: str, pair: Pair) -> str:
    """A sentence about a pair, with words in place of its columns' names."""
    names = {pair.target: words(pair.target), pair.measure: words(pair.measure)}
    found = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])(?:{found})(?![\w])", lambda match: names[match[0]], sentence)


def states(table: pd.DataFrame) -> dict[str, int]:
    """How many trials are in each state; those that no trial is in are left out."""
    counts = {str(state): int(n) for state, n in one_per_trial(table)["state"].value_counts().items()}
    known = {state: counts.pop(state) for state in STATES if state in counts}
    return known | counts


def progress(table: pd.DataFrame) -> str:
    """`58 finished, 2 failed`."""
    return ", ".join(f"{n} {state}" for state, n in states(table).items()) or "no trial in the grid"


def scope(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What a glance should show: name and value."""
    trials, networks = one_per_trial(table), compared(table)
    counts = states(table)
    cells = len(trials[list(CELL)].drop_duplicates())
    return [
        ("Trials finished", f"{counts.get('finished', 0)} of {len(trials)}"),
        ("Cells of the grid", str(cells)),
        ("Seeds in a cell", _range(trials.groupby(list(CELL), dropna=False)["seed"].nunique())),
        ("Networks compared", str(len(networks))),
    ]


def _range(values: "pd.Series[int]") -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
