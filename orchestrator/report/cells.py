"""What became of every cell of the grid: the matrix of methods and regularisers, failures, flags and costs."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis.columns import COST_NAME, SE
from orchestrator.analysis.table import one_per_trial
from orchestrator.report.headline import STATES

MARKS = {
    "finished": "\N{CHECK MARK}",
    "running": "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}",
    "pending": "\N{HORIZONTAL ELLIPSIS}",
    "interrupted": "\N{DOUBLE VERTICAL LINE}",
    "failed": "\N{MULTIPLICATION X}",
    "missing": "\N{WHITE CIRCLE}",
    "measured otherwise": "\N{WHITE DIAMOND}",
}
"""A sign for each state, so that colour is never all there is."""

TRAIN, REPEATED = "train", "repeated"


@dataclass(frozen=True)
class Share:
    """Trials of a cell in one state."""

    state: str
    seeds: tuple[int, ...]

    @property
    def mark(self) -> str:
        """The state's sign."""
        return MARKS.get(self.state, "?")

    @property
    def text(self) -> str:
        """`2 failed: seeds 0, 3`."""
        noun = "seed" if len(self.seeds) == 1 else "seeds"
        return f"{len(self.seeds)} {self.state}: {noun} {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class Row:
    """One method, in one setting, across the regularisers; None where the grid has no such cell."""

    method: str
    setting: str
    cells: tuple[tuple[Share, ...] | None, ...]


@dataclass(frozen=True)
class Matrix:
    """The grid."""

    regularizers: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def with_settings(self) -> bool:
        """Whether anything but method and regulariser varies."""
        return any(row.setting for row in self.rows)

    @property
    def with_holes(self) -> bool:
        """Whether a method lacks a regulariser that another one has."""
        return any(cell is None for row in self.rows for cell in row.cells)

    @property
    def states(self) -> list[str]:
        """Those that are there, in order."""
        found = {share.state for row in self.rows for cell in row.cells for share in cell or ()}
        return [*(state for state in STATES if state in found), *sorted(found - set(STATES))]


def matrix(table: pd.DataFrame) -> Matrix:
    """Methods down, regularisers across, the seeds in each cell by state."""
    trials = one_per_trial(table).fillna({"setting": ""})
    regularizers = tuple(dict.fromkeys(map(str, trials["regularizer"])))
    found: dict[tuple[str, str], dict[str, dict[str, list[int]]]] = {}
    names = ["method", "setting", "regularizer", "state", "seed"]
    for method, setting, regularizer, state, seed in trials[names].itertuples(index=False):
        cells = found.setdefault((str(method), str(setting)), {})
        cells.setdefault(str(regularizer), {}).setdefault(str(state), []).append(int(seed))
    order = {state: place for place, state in enumerate(STATES)}
    rows = []
    for (method, setting), cells in found.items():
        shares = [
            tuple(
                Share(state, tuple(sorted(seeds)))
                for state, seeds in sorted(cells[name].items(), key=lambda item: order.get(item[0], len(order)))
            )
            if name in cells
            else None
            for name in regularizers
        ]
        rows.append(Row(method, setting, tuple(shares)))
    return Matrix(regularizers, tuple(rows))


@dataclass(frozen=True)
class Who:
    """A network, for people and for a link."""

    label: str
    run_id: str


@dataclass(frozen=True)
class Failure:
    """Trials that failed in one way with one message."""

    error_class: str
    message: str
    trials: tuple[Who, ...]


def failures(table: pd.DataFrame) -> list[Failure]:
    """Failed trials by class and message, the most frequent first."""
    trials = one_per_trial(table)
    failed = trials[trials["state"] == "failed"].fillna({"error_class": "", "error": ""})
    groups: dict[tuple[str, str], list[Who]] = {}
    for row in failed.to_dict("records"):
        groups.setdefault((str(row["error_class"]) or "unknown", str(row["error"])), []).append(_who(row))
    found = [Failure(name, message, tuple(who)) for (name, message), who in groups.items()]
    return sorted(found, key=lambda failure: (-len(failure.trials), failure.error_class, failure.message))


@dataclass(frozen=True)
class Flag:
    """Networks of which a measure says the same."""

    measure: str
    text: str
    networks: tuple[Who, ...]


def flags(table: pd.DataFrame) -> list[Flag]:
    """What the measures say about their values, the most frequent first."""
    groups: dict[tuple[str, str], list[Who]] = {}
    flagged = table[table["flags"].fillna("") != ""]
    for row in flagged.to_dict("records"):
        for part in str(row["flags"]).split(" | "):
            measure, _, text = part.partition(": ")
            groups.setdefault((measure, text), []).append(_who(row))
    found = [Flag(measure, text, tuple(who)) for (measure, text), who in groups.items()]
    return sorted(found, key=lambda flag: (-len(flag.networks), flag.measure, flag.text))


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds of the trials of one method; None where none is recorded."""

    method: str
    trials: int
    per_trial: float | None
    """Median, training and measuring."""
    parts: tuple[float | None, ...]
    """Sum over the trials for each of `Costs.names`."""
    total: float


@dataclass(frozen=True)
class Costs:
    """What training and measuring took."""

    names: tuple[str, ...]
    """`train`, `repeated` where any training was, and the measures."""
    rows: tuple[Cost, ...]
    total: Cost

    @property
    def largest(self) -> float:
        """Of the rows, for bars."""
        return max((row.total for row in self.rows), default=0.0)

    def training(self, row: Cost) -> float:
        """What of a row is training, for bars."""
        return sum(part or 0.0 for name, part in zip(self.names, row.parts, strict=True) if name in {TRAIN, REPEATED})


def costs(table: pd.DataFrame) -> Costs | None:
    """Seconds by method, of every trial that recorded any; None where no trial did."""
    trials = one_per_trial(table)
    columns = {match["what"]: str(name) for name in trials if (match := COST_NAME.fullmatch(str(name)))
               and match["unit"] == "seconds" and not str(name).endswith(SE)}  # fmt: skip
    if REPEATED in columns and not pd.to_numeric(trials[columns[REPEATED]], errors="coerce").sum():
        del columns[REPEATED]
    names = tuple(sorted(columns, key=lambda name: (name != TRAIN, name != REPEATED, name)))
    seconds = trials[[columns[name] for name in names]].apply(pd.to_numeric, errors="coerce")
    spent = seconds.notna().any(axis=1)
    if not spent.any():
        return None
    trials, seconds = trials[spent], seconds[spent]
    rows = [_cost(str(method), seconds.loc[own.index]) for method, own in trials.groupby("method", sort=False)]
    return Costs(names, tuple(rows), _cost("All methods", seconds))


def _cost(method: str, seconds: pd.DataFrame) -> Cost:
    parts = [float(seconds[name].sum()) if seconds[name].notna().any() else None for name in seconds]
    total = sum(part for part in parts if part is not None)
    return Cost(method, len(seconds), float(seconds.sum(axis=1).median()), tuple(parts), total)


def _who(row: "dict[str, object] | dict[object, object]") -> Who:
    words: Iterable[object] = (row.get(name) for name in ("method", "regularizer", "setting"))
    parts = [str(word) for word in words if isinstance(word, str) and word]
    parts.append(f"seed {row.get('seed')}")
    if row.get("checkpoint") != "last":
        parts.append(str(row.get("checkpoint")))
    return Who(" | ".join(parts), str(row.get("run_id") or ""))
