"""Two sweeps, or two evaluations of one, network by network: what differs between the same cells, and how surely."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.analysis.correlation import CELL, count
from orchestrator.analysis.notes import FEW_CELLS
from orchestrator.errors import UserError, suggest
from orchestrator.spec.base import canonical, flatten
from orchestrator.spec.sweep import Trial
from workers import layout

KEY = (*CELL, "seed", "checkpoint")
"""What the two networks of a pair share."""
FIRST = "robust_loss_gap"
"""The measure of the sentence, where it is there."""
NOT_MEASURED = ("cost_", "train_", "validation_")
NETWORKS = (layout.LAST, layout.BEST)
SHOWN_SETTINGS = 12


@dataclass(frozen=True)
class Difference:
    """One measure on networks of one kind, last or best: B minus A, in the measure's unit.

    `low` and `high` are the bootstrap interval of `difference`; `reason` says why a part is None.
    """

    measure: str
    checkpoint: str
    pairs: int
    cells: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def sentence(self, a: str, b: str) -> str:
        """What the pairs say, in one sentence that claims no more than the interval does."""
        if self.difference is None:
            return f"No answer on {self.measure}: {self.reason}."
        over = f"Over {count(self.pairs, 'pair')} of {self.checkpoint} networks in {count(self.cells, 'cell')}"
        if self.low is None or self.high is None:
            return (
                f"{over}, {self.measure} of {b} minus {a} is {self.difference:.3g}, without an interval: {self.reason}."
            )
        numbers = f"{self.difference:.3g} [{self.low:.3g}, {self.high:.3g}]"
        if self.low == self.high == 0:
            return f"{over}, {self.measure} is the same in {a} and {b}."
        if self.low <= 0 <= self.high:
            return f"{over}, it stays open whether {self.measure} differs: {b} minus {a} is {numbers}."
        return f"{over}, {self.measure} is {'lower' if self.high < 0 else 'higher'} in {b} than in {a}: by {numbers}."


@dataclass(frozen=True)
class Comparison:
    """Every difference, with what has no partner and what to keep in mind."""

    a: str
    b: str
    pairs: int
    cells: int
    resamples: int
    level: float
    seed: int
    differences: tuple[Difference, ...]
    unpaired: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The sentence about the first measure."""
        if not self.differences:
            return f"No network of {self.a} has a partner in {self.b}."
        return self.differences[0].sentence(self.a, self.b)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None."""
        return {"answer": self.answer} | asdict(self)


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    measures: Sequence[str] | None = None,
    *,
    names: tuple[str, str] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Pairs the finished networks of two tables by `KEY` and looks at the differences B minus A.

    The interval is the percentile bootstrap over cells, each with all its pairs: seeds of a cell are no independent
    evidence. Last networks are compared with last ones, best with best, apart.

    Args:
        a, b: as `table.read_table` gives them, unfinished trials included.
        measures: columns; by default every measured value that both have, without standard errors.
        names: of A and B; by default those of the sweeps, or A and B where these are the same.
        resamples: at least 1.
        level: of the intervals, in (0, 1).
        seed: of the resampling.

    Returns:
        A difference per kind of network and measure. Values that are missing or not finite are left out, pair by pair.

    Raises:
        UserError: a column is not in both tables or holds no numbers.
    """
    names = names or _names(a, b)
    columns = _columns(a, b, measures)
    done_a, done_b = _networks(a), _networks(b)
    pairs = done_a.merge(done_b, on=list(KEY), suffixes=("_a", "_b"))
    found = []
    for checkpoint in NETWORKS:
        of_kind = pairs[pairs["checkpoint"] == checkpoint]
        if len(of_kind):
            found += [_difference(of_kind, column, checkpoint, resamples, level, seed) for column in columns]
    cells = len(pairs[list(CELL)].drop_duplicates())
    unpaired = [*_unpaired(done_a, a, b, *names), *_unpaired(done_b, b, a, *reversed(names))]
    return Comparison(
        *names,
        len(pairs),
        cells,
        resamples,
        level,
        seed,
        tuple(found),
        tuple(unpaired),
        tuple(_notes(pairs, found, a, b)),
    )


def paired_trials(a: pd.DataFrame, b: pd.DataFrame) -> list[tuple[str, str]]:
    """Trial ids, in A and in B, of the pairs of last networks."""
    pairs = _networks(a).merge(_networks(b), on=list(KEY), suffixes=("_a", "_b"))
    last = pairs[pairs["checkpoint"] == layout.LAST]
    return list(zip(last["trial_id_a"], last["trial_id_b"], strict=True))


def setting_differences(
    a: Mapping[str, Trial], b: Mapping[str, Trial], pairs: Sequence[tuple[str, str]], names: tuple[str, str]
) -> list[str]:
    """In which settings the trials of the pairs differ, `training.epochs: 30 in A, 60 in B (18 pairs)`.

    Args:
        a, b: trials by id; a network that was not trained here is in neither.
        pairs: ids in A and in B.
        names: of A and B.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for left, right in pairs:
        if left == right or left not in a or right not in b:
            continue
        mine, other = (flatten(canonical(trial, complete=True)) for trial in (a[left], b[right]))
        for key in {**mine, **other}:
            if (value := mine.get(key)) != (wanted := other.get(key)):
                found[key, str(value), str(wanted)] += 1
    lines = [
        f"{key}: {mine} in {names[0]}, {other} in {names[1]} ({count(n, 'pair')})"
        for (key, mine, other), n in found.most_common()
    ]
    more = len(lines) - SHOWN_SETTINGS
    return [*lines[:SHOWN_SETTINGS], *([f"and {more} more settings"] if more > 0 else [])]


def _names(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, str]:
    one, two = (str(table.attrs.get("sweep", "")) for table in (a, b))
    return (one, two) if one and two and one != two else ("A", "B")


def _columns(a: pd.DataFrame, b: pd.DataFrame, asked: Sequence[str] | None) -> list[str]:
    both = [
        name
        for name in map(str, a)
        if name not in {*KEY, "epoch", "attempt"}
        and name in b
        and all(pd.api.types.is_numeric_dtype(table[name]) for table in (a, b))
    ]
    if asked is None:
        kept = [name for name in both if not name.startswith(NOT_MEASURED) and not name.endswith("_se")]
        if not kept:
            raise UserError("the tables have no measured value in common; name columns with --measure")
        return sorted(kept, key=lambda name: name != FIRST)
    for name in asked:
        if name not in both:
            raise UserError(f"'{name}' is no column of numbers in both tables: {suggest(name, both)}")
    return list(dict.fromkeys(asked))


def _networks(table: pd.DataFrame) -> pd.DataFrame:
    """Finished last and best networks, one for each key."""
    done = table[(table["state"] == "finished") & table["checkpoint"].isin(NETWORKS)]
    return done.drop_duplicates(list(KEY)).reset_index(drop=True)


def _difference(
    pairs: pd.DataFrame, column: str, checkpoint: str, resamples: int, level: float, seed: int
) -> Difference:
    left, right = (pairs[f"{column}_{side}"].to_numpy(np.float64, na_value=np.nan) for side in "ab")
    usable = np.isfinite(left) & np.isfinite(right)
    if not usable.any():
        return Difference(column, checkpoint, 0, 0, None, None, None, reason="no pair has two values")
    cells = pairs[usable].groupby(list(CELL)).ngroup().to_numpy().astype(np.int64)
    left, right = left[usable], right[usable]
    k = int(cells.max()) + 1
    values = (column, checkpoint, len(left), k, float(left.mean()), float(right.mean()), float((right - left).mean()))
    if k == 1:
        return Difference(*values, reason="all pairs are in one cell, and the interval resamples cells")
    counts: Ints = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=resamples)
    low, high = np.quantile(resampled_means(right - left, cells, counts), [(1 - level) / 2, (1 + level) / 2])
    return Difference(*values, float(low), float(high))


def resampled_means(values: Floats, cells: Ints, counts: Ints) -> Floats:
    """Mean of the values in many resamples of cells.

    Args:
        values: Shape (n,), finite.
        cells: Shape (n,), each value's cell in 0..k-1; every cell has one.
        counts: Shape (b, k), how often each cell is in a resample, at least once for one of them.

    Returns:
        Shape (b,).
    """
    means: Floats = (counts @ np.bincount(cells, values)) / (counts @ np.bincount(cells))
    return means


def _unpaired(done: pd.DataFrame, own: pd.DataFrame, other: pd.DataFrame, name: str, other_name: str) -> list[str]:
    """A line for each finished network without a partner, and why."""
    states = {tuple(row): state for *row, state in other[[*KEY, "state"]].itertuples(index=False)}
    finished = {key for key, state in states.items() if state == "finished"}
    lines = []
    for row in done[list(KEY)].itertuples(index=False):
        if (key := tuple(row)) not in finished:
            why = f"it is {states[key]} in {other_name}" if key in states else f"{other_name} has no such network"
            lines.append(f"{_label(key)}: only in {name}, {why}")
    twice = own[(own["state"] == "finished") & own["checkpoint"].isin(NETWORKS)]
    for row in twice[twice.duplicated(list(KEY))][list(KEY)].itertuples(index=False):
        lines.append(f"{_label(tuple(row))}: is in {name} more than once, the first is compared")
    return lines


def _label(key: tuple[Any, ...]) -> str:
    method, regularizer, setting, seed, checkpoint = key
    parts = [method, regularizer, setting, f"seed {seed}", "" if checkpoint == layout.LAST else checkpoint]
    return " | ".join(str(part) for part in parts if part)


def _notes(pairs: pd.DataFrame, found: Sequence[Difference], a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    notes = []
    ids = [table.attrs.get("evaluation_id") for table in (a, b)]
    if None not in ids and ids[0] != ids[1]:
        notes.append(f"Measured with different settings, {ids[0]} and {ids[1]}: a difference may be theirs alone.")
    if same := int((pairs["trial_id_a"] == pairs["trial_id_b"]).sum()):
        notes.append(f"{count(same, 'pair')} of {len(pairs)}: one and the same network on both sides.")
    few = [each.cells for each in found if each.low is not None and each.cells < FEW_CELLS]
    if few:
        notes.append(f"With few cells ({min(few)}) the intervals are too narrow: read them as optimistic.")
    if len(found) > 1:
        notes.append(f"{len(found)} differences are looked at: some intervals leave 0 out by chance.")
    return notes
