"""What the values of a table come from - data, code, device - and whether rows that are compared agree in it."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from orchestrator.analysis import columns
from orchestrator.analysis.columns import VERSION
from orchestrator.analysis.correlation import count
from orchestrator.errors import UserError
from orchestrator.spec.base import digest, flatten
from orchestrator.spec.data import Data
from orchestrator.spec.sweep import Evaluation
from orchestrator.trial_run import TrialRun

SOURCES = tuple(columns.SOURCES)
"""Columns of every table, all of them text: ids of a trial's older runs, its data, what made it. Those of further
packages, `<package>_version`, stand behind them."""
DIGEST = "data_digest"
RECORDED = SOURCES[SOURCES.index(DIGEST) + 1 :]
SHOWN_LETTERS = 40
"""Of a value, in a sentence."""
SHOWN_VALUES = 4


def run_sources(data: Data | None, run: TrialRun | None, older: Iterable[TrialRun] = ()) -> dict[str, str]:
    """`SOURCES`, and versions of further packages: '' where nothing is recorded.

    Args:
        data: as the sweep file has them; `data_id` says which data that means and how it cuts them, '' where it is not
            known. `data_digest` says what was in them.
        run: what is recorded.
        older: runs of the same trial.
    """
    tags = run.tags if run else {}
    found = {name: tags.get(name, "") for name in (DIGEST, *RECORDED)}
    versions = {name: tags[name] for name in _versions(tuple(tags))}
    # the word of the worker, from its last attempt, counts before that of the driver that made the run
    worker = {f"{name}{VERSION}": tags[name] for name in ("torch", "python") if tags.get(name)}
    known = {"other_runs": ", ".join(other.run_id for other in older), "data_id": _data_id(data) if data else ""}
    return known | found | versions | worker


@lru_cache(maxsize=1000)  # most runs have the same tags
def _versions(tags: tuple[str, ...]) -> list[str]:
    return [name for name in tags if name.endswith(VERSION)]


@lru_cache(maxsize=256)  # the cells of a grid share their data
def _data_id(data: Data) -> str:
    return digest(data)


@dataclass(frozen=True)
class Mixture:
    """A column of `SOURCES` in which rows that are compared differ."""

    column: str
    trials: dict[str, int]
    """Number of trials by value, most first."""
    forbidden: bool
    """Whether comparing them needs the user's word."""

    def sentence(self) -> str:
        """`mixed torch_version: 12 trials with 2.11.0, 6 trials with 2.15.0`."""
        parts = [f"{count(n, 'trial')} with {value[:SHOWN_LETTERS] or 'none'}" for value, n in self.trials.items()]
        more = len(parts) - SHOWN_VALUES
        return f"mixed {self.column}: {', '.join(parts[:SHOWN_VALUES])}{f', and {more} more' if more > 0 else ''}"


def mixtures(table: pd.DataFrame, evaluations: Mapping[str, Evaluation] | None = None) -> list[Mixture]:
    """What finished trials of a table are mixed of.

    Forbidden are different contents of data that the sweep file takes for one set: no trial id tells these trials
    apart, and their difference would be read as one of method or regulariser. So are versions of flatsweep whose first
    two numbers differ, as between them training or measuring may have changed its meaning. Everything else is said
    only: another torch, device or patch changes rounding, and a commit of the folder with the sweep file may change
    anything or nothing; refusing them would refuse most sweeps that take weeks. Between sweeps, different settings of
    one measure are forbidden too.

    Args:
        table: with the columns `trial_id`, `state` and `SOURCES`. What is not recorded is left out.
        evaluations: of each sweep, by its name, for a table of several.
    """
    done = table[table["state"] == "finished"].drop_duplicates(["trial_id", "run_id"])
    names = [name for name in map(str, table) if name in RECORDED or name.endswith(VERSION)]
    found = []
    for data_id, rows in done.groupby("data_id", sort=False):
        if data_id and len(digests := _counts(rows[DIGEST])) > 1:
            found.append(Mixture(f"{DIGEST} (of data {data_id!s})", digests, forbidden=True))
    for name in names:
        if len(values := _counts(done[name])) > 1:
            releases = {tuple(value.split(".")[:2]) for value in values}
            found.append(Mixture(name, values, forbidden=name == f"flatsweep{VERSION}" and len(releases) > 1))
    return found + (_mixed_evaluations(done, evaluations) if evaluations and columns.SWEEP in table else [])


def _mixed_evaluations(table: pd.DataFrame, evaluations: Mapping[str, Evaluation]) -> list[Mixture]:
    """Settings of evaluation in which the sweeps of a table differ, those without a row left out.

    A measure that only some of the sweeps have is no mixture: trials of the others have no value of it. Nor is which
    networks of a trial are measured.
    """
    trials = table.groupby(columns.SWEEP)["trial_id"].nunique()
    settings = {name: _settings(evaluation) for name, evaluation in evaluations.items() if name in trials}
    found = []
    for key in dict.fromkeys(key for of in settings.values() for key in of):
        part = key.partition(".")[0]
        counts: Counter[str] = Counter()
        for name, of in settings.items():
            if any(other.partition(".")[0] == part for other in of):
                counts[str(of.get(key, "none"))] += int(trials[name])
        if len(counts) > 1:
            found.append(Mixture(f"evaluation setting {key}", dict(counts.most_common()), forbidden=True))
    return found


def _settings(evaluation: Evaluation) -> dict[str, object]:
    """By dotted name, `average_flatness.draws`; a second measure of one name is `average_flatness#2`."""
    times: Counter[str] = Counter()
    found: dict[str, object] = {"seed": evaluation.seed}
    for measure in evaluation.measures:
        times[measure.name] += 1
        name = measure.name if times[measure.name] == 1 else f"{measure.name}#{times[measure.name]}"
        found |= flatten({name: measure.model_dump(mode="json", exclude={"name"})})
    return found


def counted_once(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each trial in one sweep only: the first of the table where it has finished, else the first."""
    if columns.SWEEP not in table:
        return table
    finished_first = table.loc[(table["state"] != "finished").sort_values(kind="stable").index]
    used = finished_first.drop_duplicates("trial_id").set_index("trial_id")[columns.SWEEP]
    return table[table[columns.SWEEP] == table["trial_id"].map(used)].reset_index(drop=True)


@dataclass(frozen=True)
class Shared:
    """A trial that several sweeps hold."""

    trial_id: str
    label: str
    sweeps: tuple[str, ...]
    used: str
    """The sweep whose run counts."""


def shared(table: pd.DataFrame) -> list[Shared]:
    """The trials of a table that several of its sweeps hold; they count once (`counted_once`)."""
    if columns.SWEEP not in table:
        return []
    used = counted_once(table).drop_duplicates("trial_id").set_index("trial_id")[columns.SWEEP]
    found = []
    for trial_id, rows in table.groupby("trial_id", sort=False):
        sweeps = tuple(map(str, rows[columns.SWEEP].unique()))
        if len(sweeps) > 1:
            label = _cell({**rows.iloc[0].to_dict(), columns.SWEEP: ""})
            found.append(Shared(str(trial_id), label, sweeps, str(used[trial_id])))
    return found


def shared_lines(found: Iterable[Shared]) -> list[str]:
    """A line for all trials that the same sweeps share, with the first of them by name."""
    groups: dict[tuple[tuple[str, ...], str], list[Shared]] = {}
    for trial in found:
        groups.setdefault((trial.sweeps, trial.used), []).append(trial)
    lines = []
    for (sweeps, used), trials in groups.items():
        named = "; ".join(f"{trial.trial_id} ({trial.label})" for trial in trials[:SHOWN_VALUES])
        more = f"; and {len(trials) - SHOWN_VALUES} more" if len(trials) > SHOWN_VALUES else ""
        places = f"{'both' if len(sweeps) == 2 else 'all of'} {', '.join(sweeps[:-1])} and {sweeps[-1]}"
        lines.append(f"in {places}: {count(len(trials), 'trial')}, counted once, as in {used}: {named}{more}")
    return lines


def refuse_mixed(found: Iterable[Mixture]) -> None:
    """Raises where rows are mixed that may not be.

    Raises:
        UserError: with all of them.
    """
    if forbidden := [mixture.sentence() for mixture in found if mixture.forbidden]:
        raise UserError("\n".join([*forbidden, "these trials are not comparable; --allow-mixed takes them together"]))


def repeated(table: pd.DataFrame) -> list[str]:
    """A line for each trial that has several runs, of which the newest counts."""
    return [
        f"trial {row['trial_id']} ({_cell(row)}) has several runs: {row['run_id']}, the newest, is used, not "
        f"{row['other_runs']}"
        for row in table[table["other_runs"] != ""].drop_duplicates(["trial_id", "run_id"]).to_dict("records")
    ]


def not_used(table: pd.DataFrame) -> list[str]:
    """A line for each trial without values: missing, failed in some way, not ended, or measured otherwise."""
    trials = counted_once(table).drop_duplicates("trial_id")
    return [
        f"not used: {_cell(row)}: {row['error_class'] or row['state']}"
        for row in trials[trials["state"] != "finished"].to_dict("records")
    ]


def _counts(values: "pd.Series[str]") -> dict[str, int]:
    """How often each value is there, '' left out, most first."""
    return dict(Counter(value for value in map(str, values.dropna()) if value).most_common())


def _cell(row: Mapping[Hashable, Any]) -> str:
    setting = f" | {row['setting']}" if row["setting"] else ""
    sweep = f"{row[columns.SWEEP]}: " if row.get(columns.SWEEP) else ""
    return f"{sweep}{row['method']} | {row['regularizer']}{setting} | seed {row['seed']}"
