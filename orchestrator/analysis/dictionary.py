"""The data dictionary of a table: what each column means and its unit, from the vocabulary itself."""

import inspect
import re

import pandas as pd

from orchestrator.errors import UserError
from orchestrator.spec.sweep import Evaluation

MEANINGS = {
    "sweep": "the sweep",
    "trial_id": "hash of everything that determines the network's weights",
    "checkpoint": "which of the trial's networks: last, best (early stopping), or that of an epoch that was kept",
    "epoch": "after which epoch the network was taken",
    "method": "training method with the parameters that differ from their defaults",
    "method_name": "training method, its name alone",
    "regularizer": "regularisers with their parameters, or none",
    "setting": "what is unusual in the trial's data, model and training",
    "seed": "the trial's seed",
    "state": "missing, pending, running, interrupted, finished, failed, or measured otherwise (with other settings)",
    "flags": "what measures say about their values, where these are to be read with care",
    "error_class": "in which way the trial failed",
    "error": "the message",
    "attempt": "how often the trial was begun or taken up again",
    "evaluation_id": "hash of the settings that `submit` measured the trial with",
    "run_id": "the trial's MLflow run",
    "other_runs": "older MLflow runs of the trial, which are not used",
    "data_id": "hash of the data set as the sweep file names and cuts it",
    "data_digest": "hash of all pixels and labels of the data set",
    "device": "what the trial ran on, in its last attempt",
    "git_commit": "commit of the folder with the sweep file when the run was made",
    "cost_train_seconds": "training, all epochs",
}
SINGLE_UNITS = {"epoch": "epochs", "attempt": "attempts"}
UNITS = (
    (r"cost_.*_seconds|train_seconds", "s"),
    (r"cost_.*_passes", "forward-backward passes of one image"),
    (r"(robust|clean)_loss_(train|test|gap)|(train|validation)_(robust_)?loss", "nats"),
    (
        r"(robust|clean|autoattack|autoattack_rand)_error_(train|test|gap)|(train|validation)_(robust_)?error",
        "fraction",
    ),
    (r"(average|worst)_flatness_xi[^_]*(_filter|_train)*", "nats"),
    (r"(average|worst)_flatness_xi[^_]*(_filter|_train)*_error(_filter|_train)*", "fraction"),
)
"""Patterns of whole names, standard errors without their ending."""
STANDARD_ERROR = "_se"


def describe(table: pd.DataFrame, evaluation: Evaluation | None = None) -> pd.DataFrame:
    """What the columns of a table mean.

    Args:
        table: as `load_sweep` gives it.
        evaluation: what was measured; what the table's `attrs` say if not given.

    Returns:
        A row per column of the table, in its order, with the columns `meaning`, `unit` ('' where there is none, or
        only the meaning says it) and `measure`, the name of the measure whose value it is, or ''.

    Raises:
        UserError: the table does not say what was measured: an operation of pandas has dropped its `attrs`.
    """
    if evaluation is None:
        if "evaluation" not in table.attrs:
            raise UserError(
                "the table has lost its attrs, which say what was measured: describe it before it is changed"
            )
        evaluation = Evaluation.model_validate(table.attrs["evaluation"])
    measured = {
        key: (measure.name, f"{_first(type(measure).__doc__)} Values: {_first(measure.keys.__doc__)}")
        for measure in evaluation.measures
        for key in measure.keys()  # noqa: SIM118  (a method)
    }
    rows = []
    for column in map(str, table):
        measure, meaning = measured.get(column, ("", ""))
        value = column.removesuffix(STANDARD_ERROR)
        if value != column and value in measured:
            measure, meaning = measured[value][0], f"standard error of {value}"
        rows.append({"meaning": meaning or _meaning(column), "unit": unit(column), "measure": measure})
    return pd.DataFrame(rows, index=pd.Index(list(table), name="column"))


def unit(column: str) -> str:
    """The unit of a column, '' where it has none or none is known.

    >>> unit("robust_error_gap_se")
    'fraction'
    """
    value = column.removesuffix(STANDARD_ERROR)
    found = (name for pattern, name in UNITS if re.fullmatch(pattern, value))
    return SINGLE_UNITS.get(column) or next(found, "")


def _meaning(column: str) -> str:
    """Of a column that no measure of the evaluation gives."""
    if column in MEANINGS:
        return MEANINGS[column]
    if column.endswith("_version"):
        return f"version of {column.removesuffix('_version')} that made the run"
    for prefix, text in (("train_", "of training, in its last epoch"), ("validation_", "on validation images, newest")):
        if column.startswith(prefix):
            return f"{column.removeprefix(prefix).replace('_', ' ')} {text}"
    if cost := re.fullmatch(r"cost_(.*)_(seconds|passes)", column):
        return f"measuring {cost[1]}" + (", as predicted from its settings" if cost[2] == "passes" else "")
    return "recorded by the trial"


def _first(doc: str | None) -> str:
    """The first paragraph of a docstring in one line."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())
