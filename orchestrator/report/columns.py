"""What every column of a sweep's table is called, means and counts in: axes, tooltips and the data dictionary."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.analysis.figures import axis_label
from orchestrator.spec.measures import Measure

SE = "_se"
SETTING, STATE, TRAINING, COST, OTHER = "Settings", "State", "Training", "Costs", "Other"

# What is no value of a measure, as orchestrator/analysis/table.py makes it: label, unit, meaning.
SETTINGS = {
    "trial_id": ("Trial", "", "Hash of everything that determines the weights; name of the trial's folder."),
    "checkpoint": ("Network", "", "last, best (early-stopped), or the network of a single epoch."),
    "epoch": ("Epoch", "epochs", "Whole epochs of training behind the network."),
    "method": ("Method", "", "Training method with the parameters that differ from their defaults."),
    "method_name": ("Method, by name", "", "Training method without parameters."),
    "regularizer": ("Regulariser", "", "Regularisers that apply together, with their parameters."),
    "setting": ("Setting", "", "Data, model and training settings that are unusual in this sweep."),
    "seed": ("Seed", "", "Seed of initialisation, batches and attacks."),
}
STATES = {
    "state": ("State", "", "missing, pending, running, interrupted, finished, failed, or measured otherwise."),
    "flags": ("Flags", "", "What a reader of the values must know, measure by measure."),
    "error_class": ("Error class", "", "Class of the failure; empty where there was none."),
    "error": ("Error", "", "Message of the failure."),
    "attempt": ("Attempt", "attempts", "How often the trial was taken up."),
    "evaluation_id": ("Evaluation", "", "Hash of the settings behind the values."),
    "run_id": ("MLflow run", "", "Id of the trial's one run."),
}
TRAINED = {
    "train_loss": ("Training loss", "nats", "Mean loss of the method over the last epoch, as it trained."),
    "train_error": ("Training error", "fraction", "Wrong answers over the last epoch, as it trained."),
    "train_lr": ("Learning rate", "", "At the end of the last epoch."),
    "train_seconds": ("Seconds of the last epoch", "s", "Wall-clock time of the last epoch."),
    "validation_robust_error": ("Robust error, validation", "fraction", "On the images of early stopping."),
    "validation_robust_loss": ("Robust loss, validation", "nats", "On the images of early stopping."),
}
KNOWN = ((SETTING, SETTINGS), (STATE, STATES), (TRAINING, TRAINED))
UNIT = re.compile(r"(?P<label>.*) \((?P<unit>nats|fraction)\)")
INTERNAL = re.compile(r" \(SCIENCE\.md[^)]*\)")
"""References of docstrings that mean nothing to a reader of the page."""
COST_NAME = re.compile(r"cost_(?P<what>.+)_(?P<unit>seconds|passes)")


@dataclass(frozen=True)
class Column:
    """One column of a sweep's table."""

    name: str
    label: str
    """For people, without unit."""
    unit: str
    """'' where it has none, or where the measure alone knows it."""
    meaning: str
    group: str
    """Name of the measure, or one of the groups above."""


@dataclass(frozen=True)
class Group:
    """Columns of one origin, with what is known of all of them."""

    name: str
    text: str
    columns: tuple[Column, ...]


def describe(name: str, measure: str = OTHER) -> Column:
    """A column by its name.

    Args:
        name: of the column.
        measure: name of the measure whose value it is, if it is one.
    """
    for group, known in KNOWN:
        if name in known:
            return Column(name, *known[name], group)
    if match := COST_NAME.fullmatch(name):
        what, seconds = match["what"], match["unit"] == "seconds"
        if what == "train":
            return Column(name, "Training time", "s", "Wall-clock time of all epochs of the trial.", COST)
        label = f"Time measuring {what}" if seconds else f"Predicted passes of {what}"
        meaning = "Wall-clock time, all networks of the trial." if seconds else "Forward-backward passes of one image."
        return Column(name, label, "s" if seconds else "passes", meaning, COST)
    if name.endswith(SE):
        value = describe(name.removesuffix(SE), measure)
        return Column(name, f"{value.label}, standard error", value.unit, f"Standard error of {value.name}.", measure)
    text = axis_label(name)
    match = UNIT.fullmatch(text)
    label, unit = (match["label"], match["unit"]) if match else (text, "")
    return Column(name, label, unit, f"{label}." if label != name else f"As {measure} describes it.", measure)


def dictionary(table: pd.DataFrame, measures: Sequence[Measure]) -> list[Group]:
    """Every column of a table, in its order, by origin.

    Args:
        table: as `analysis.table.trial_table` makes it.
        measures: of the evaluation; their docstrings say what their values are.
    """
    origins = {key: measure.name for measure in measures for key in measure.keys()}  # noqa: SIM118  (a method)
    columns = [describe(str(name), origins.get(str(name), OTHER)) for name in table]
    texts = {measure.name: _text(measure) for measure in measures}
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column)
    return [Group(name, texts.get(name, ""), tuple(found)) for name, found in groups.items()]


def words(column: str) -> str:
    """A column in the middle of a sentence: `average-case flatness (xi = 0.5)`; unknown ones stay as they are."""
    label = describe(column).label
    if label == column:
        return column
    name, *rest = label.removesuffix(", test \N{MINUS SIGN} train").split(", ")
    name = name[0].lower() + name[1:]
    return f"{name} ({', '.join(rest)})" if rest else name


def _text(measure: Measure) -> str:
    """The measure in its own words, and its values."""
    parts = [inspect.getdoc(type(measure)) or "", inspect.getdoc(type(measure).keys) or ""]
    return INTERNAL.sub("", " ".join(" ".join(part.split()) for part in parts)).replace("`", "")
