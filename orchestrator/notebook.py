"""What a notebook uses: `from orchestrator import load_sweep` and the functions behind the commands."""

from pathlib import Path

import pandas as pd

from orchestrator.analysis.comparison import compare
from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.dictionary import describe
from orchestrator.analysis.figures import scatter
from orchestrator.analysis.table import compared

__all__ = ["compare", "compared", "correlate", "describe", "load_sweep", "scatter"]


def load_sweep(
    sweep: str | Path,
    *,
    storage: str | Path | None = None,
    tracking_uri: str | None = None,
    evaluation: str | None = None,
    profile: str | None = None,
    fresh: bool = False,
) -> pd.DataFrame:
    """A sweep as one tidy table: a row per trial and network measured, whatever became of it.

    Args:
        sweep: a sweep file, or the name of a sweep that was submitted before.
        storage: folder or address that the sweep lies in, instead of the file's; for a name `runs`, if not given.
        tracking_uri: MLflow's, instead of the file's.
        evaluation: id, or its first digits, of the evaluation whose values are wanted; the sweep's own if not given.
        profile: one of the file's profiles.
        fresh: fetch every run anew, instead of those that changed since the last look.

    Returns:
        Numbers as float64, seeds and attempts as int64, epochs as Int64, everything else as text. `attrs` holds
        `sweep`, `evaluation_id` and `evaluation`. `describe` says what the columns mean, `compared` picks the rows that
        `correlate` and `scatter` take.

    Raises:
        UserError: no such sweep, evaluation or profile, nothing is recorded, or the store cannot be reached.
    """
    from orchestrator.cli.commands import places, recorded_table

    where = places(str(storage) if storage is not None else None, tracking_uri, profile)
    return recorded_table(str(sweep), where, evaluation, fresh)[1]
