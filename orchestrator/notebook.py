"""What a notebook uses: `from orchestrator import load_sweep` and the functions behind the commands."""

from pathlib import Path

import pandas as pd

from orchestrator.analysis.comparison import compare
from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.dictionary import describe
from orchestrator.analysis.figures import scatter
from orchestrator.analysis.sources import mixtures, refuse_mixed
from orchestrator.analysis.table import compared, read_tables
from orchestrator.errors import UserError

__all__ = ["compare", "compared", "correlate", "describe", "load_sweep", "scatter"]


def load_sweep(
    *sweeps: str | Path,
    storage: str | Path | None = None,
    tracking_uri: str | None = None,
    evaluation: str | None = None,
    profile: str | None = None,
    fresh: bool = False,
    allow_mixed: bool = False,
) -> pd.DataFrame:
    """A sweep as one tidy table, or several: a row per trial and network measured, whatever became of it.

    Of several sweeps the column `sweep` stands first; a trial that two of them hold has its rows twice, and
    `correlate` uses and lists them once.

    Args:
        sweeps: sweep files, or names of sweeps that were submitted before; of different names.
        storage: folder or address that the sweeps lie in, instead of the file's; for a name `runs`, if not given.
        tracking_uri: MLflow's, instead of the file's.
        evaluation: id, or its first digits, of the evaluation whose values are wanted; each sweep's own if not given.
        profile: one of the file's profiles.
        fresh: fetch every run anew, instead of those that changed since the last look.
        allow_mixed: take several sweeps together also where their trials are not comparable.

    Returns:
        Numbers as float64, seeds and attempts as int64, epochs as Int64, everything else as text. `attrs` holds
        `sweep`, `evaluation_id`, `evaluation` (of the first) and `measures` (of all). `describe` says what the columns
        mean, `compared` picks the rows that `correlate` and `scatter` take.

    Raises:
        UserError: no such sweep, evaluation or profile, nothing is recorded, the store cannot be reached, or the trials
            of several sweeps differ in data, release or measuring.
    """
    from orchestrator.cli.commands import places, sources

    if not sweeps:
        raise UserError("load_sweep needs a sweep file, or the name of a sweep that was submitted before")
    where = places(str(storage) if storage is not None else None, tracking_uri, profile)
    _, sides = sources(list(map(str, sweeps)), where, evaluation)
    table = read_tables(sides, fresh)
    if len(sides) > 1 and not allow_mixed:
        refuse_mixed(mixtures(table, {sweep.name: sweep.evaluation for sweep, _ in sides}))
    return table
