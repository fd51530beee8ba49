"""What every column of a table is called, holds, counts in and means, and where it comes from: the one place for it.

Tables take their order of columns from here; figures, the report, notebooks and docs/columns.md take the words.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.spec.measures import Measure, value_keys

SE = "_se"
"""Ends the name of a value's standard error."""
VERSION = "_version"
SETTING, STATE, PROVENANCE, TRAINING, COST, OTHER = "Settings", "State", "Provenance", "Training", "Costs", "Other"
ORIGINS = {
    SETTING: "the sweep file",
    STATE: "the trial's MLflow run",
    PROVENANCE: "the trial's MLflow run",
    TRAINING: "the trial's training",
    COST: "the trial's clock",
    OTHER: "the trial",
}
"""Where the columns of a group come from; those of measures from the measure."""
TEXT, WHOLE, NUMBER = "text", "whole number", "number"
SWEEP = "sweep"


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    label: str
    """For people, without unit."""
    type: str
    """`text`, `whole number` or `number`."""
    unit: str
    """'' where it has none, or where the measure alone knows it."""
    meaning: str
    """One sentence or two."""
    group: str
    """Name of the measure, or one of the groups above."""

    @property
    def source(self) -> str:
        """Where it comes from."""
        return ORIGINS.get(self.group, f"measure {self.group}")

    @property
    def axis(self) -> str:
        """The label with its unit in brackets."""
        return f"{self.label} ({self.unit})" if self.unit and self.label != self.name else self.label


def _group(group: str, rows: Sequence[tuple[str, str, str, str, str]]) -> dict[str, Column]:
    return {name: Column(name, label, kind, unit, meaning, group) for name, label, kind, unit, meaning in rows}


SETTINGS = _group(SETTING, [
    ("trial_id", "Trial", TEXT, "", "Hash of everything that determines the weights; name of the trial's folder."),
    ("checkpoint", "Network", TEXT, "", "Which of the trial's networks: last, best (early-stopped), or of an epoch."),
    ("epoch", "Epoch", WHOLE, "epochs", "Whole epochs of training behind the network."),
    ("method", "Method", TEXT, "", "Training method with the parameters that differ from their defaults."),
    ("method_name", "Method, by name", TEXT, "", "Training method without parameters."),
    ("regularizer", "Regulariser", TEXT, "", "Regularisers that apply together, with their parameters, or none."),
    ("setting", "Setting", TEXT, "", "What is unusual in the trial's data, model and training."),
    ("seed", "Seed", WHOLE, "", "Seed of initialisation, batches and attacks."),
])  # fmt: skip
STATES = _group(STATE, [
    ("state", "State", TEXT, "", "missing, pending, running, interrupted, finished, failed, or measured otherwise: "
     "with other settings than are asked for."),
    ("flags", "Flags", TEXT, "", "What measures say about their values, where these are to be read with care."),
    ("error_class", "Error class", TEXT, "", "In which way the trial failed; empty where it did not."),
    ("error", "Error", TEXT, "", "Message of the failure."),
    ("attempt", "Attempt", WHOLE, "attempts", "How often the trial was begun or taken up again."),
    ("evaluation_id", "Evaluation", TEXT, "", "Hash of the settings that `submit` measured the trial with."),
    ("run_id", "MLflow run", TEXT, "", "Id of the trial's one run."),
])  # fmt: skip
SOURCES = _group(PROVENANCE, [
    ("other_runs", "Older runs", TEXT, "", "Older MLflow runs of the trial, which are not used."),
    ("data_id", "Data set", TEXT, "", "Hash of the data set as the sweep file names and cuts it."),
    ("data_digest", "Digest of the data", TEXT, "", "Hash of all pixels and labels of the data set."),
    ("device", "Device", TEXT, "", "What the trial ran on, in its last attempt."),
    ("git_commit", "Git commit", TEXT, "", "Commit of the folder with the sweep file when the run was made."),
    ("flatsweep_version", "flatsweep", TEXT, "", "Version of flatsweep that made the run."),
    ("torch_version", "torch", TEXT, "", "Version of torch on the worker, or, before it had begun, where submitted."),
])  # fmt: skip
TRAINED = _group(TRAINING, [
    ("train_loss", "Training loss", NUMBER, "nats", "Mean loss of the method over the last epoch, as it trained."),
    ("train_error", "Training error", NUMBER, "fraction", "Wrong answers over the last epoch, as it trained."),
    ("train_lr", "Learning rate", NUMBER, "", "At the end of the last epoch."),
    ("train_seconds", "Seconds of the last epoch", NUMBER, "s", "Wall-clock time of the last epoch."),
    ("validation_robust_error", "Robust error, validation", NUMBER, "fraction", "On the images of early stopping."),
    ("validation_robust_loss", "Robust loss, validation", NUMBER, "nats", "On the images of early stopping."),
])  # fmt: skip
OF_SEVERAL = Column(SWEEP, "Sweep", TEXT, "", "The sweep, where a table is of several.", SETTING)
KNOWN: Mapping[str, Column] = {SWEEP: OF_SEVERAL} | SETTINGS | STATES | SOURCES | TRAINED

COST_NAME = re.compile(r"cost_(?P<what>.+)_(?P<unit>seconds|passes)")
UNPERTURBED = re.compile(r"(?P<what>(robust|clean)_(loss|error)|autoattack(_rand)?_error)_(?P<part>train|test|gap)")
"""Losses and errors of the network as it is."""
VALUES = {
    "robust_loss": ("Robust loss", "nats", "Mean cross-entropy under attack"),
    "robust_error": ("Robust error", "fraction", "Share of wrong answers under attack"),
    "clean_loss": ("Clean loss", "nats", "Mean cross-entropy without attack"),
    "clean_error": ("Clean error", "fraction", "Share of wrong answers without attack"),
    "autoattack_error": ("AutoAttack error", "fraction", "Share of wrong answers under AutoAttack"),
    "autoattack_rand_error": ("AutoAttack (rand) error", "fraction", "Share of wrong answers under AutoAttack (rand)"),
}
PARTS = {
    "train": (", train", ", on training images."),
    "test": (", test", ", on test images."),
    "gap": (" gap, test \N{MINUS SIGN} train", ", test minus train."),
}
FLATNESS = re.compile(r"(?P<case>average|worst)_flatness_xi(?P<xi>[^_]+)(?P<options>(_filter|_error|_train)*)")
CASES = {
    "average": ("Average-case flatness", "on average over random directions", "by"),
    "worst": ("Worst-case flatness", "in the worst direction found", "by up to"),
}
INTERNAL = re.compile(r" \(SCIENCE\.md[^)]*\)")
"""References of docstrings that mean nothing to a user."""


def column_of(name: str, measure: Measure | None = None) -> Column:
    """A column by its name.

    Args:
        name: of the column.
        measure: whose value it is, if it is one.
    """
    if name in KNOWN:
        return KNOWN[name]
    if cost := COST_NAME.fullmatch(name):
        return _cost(name, cost["what"], cost["unit"])
    if name.endswith(VERSION):
        package = name.removesuffix(VERSION)
        return Column(name, package, TEXT, "", f"Version of {package} that made the run.", PROVENANCE)
    group = measure.name if measure else OTHER
    if name.endswith(SE):
        value = column_of(name.removesuffix(SE), measure)
        return Column(name, f"{value.label}, standard error", NUMBER, value.unit, f"Standard error of {value.name}.",
                      group)  # fmt: skip
    if found := UNPERTURBED.fullmatch(name):
        label, unit, meaning = VALUES[found["what"]]
        part, images = PARTS[found["part"]]
        return Column(name, label + part, NUMBER, unit, meaning + images, group)
    if found := FLATNESS.fullmatch(name):
        return _flatness(name, found["case"], found["xi"], found["options"].split("_")[1:], group)
    meaning = _plain(type(measure).keys.__doc__) if measure else "Recorded by the trial."
    return Column(name, name, NUMBER, "", meaning, group)


def columns_of(names: Iterable[str], measures: Iterable[Measure]) -> list[Column]:
    """Several columns by their names; `measures` are those whose values may be among them."""
    of = {key: measure for measure in measures for key in value_keys([measure])}
    # a value that has a standard error beside it, which its measure does not name
    return [column_of(name, of.get(name) or of.get(name.removesuffix(SE))) for name in names]


def axis_label(name: str) -> str:
    """A column's name for an axis, with its unit: nats for losses and flatness, fraction for errors.

    >>> axis_label("robust_error_test")
    'Robust error, test (fraction)'
    """
    return column_of(name).axis


def words(name: str) -> str:
    """A column in the middle of a sentence: `average-case flatness (xi = 0.5)`; unknown ones stay as they are."""
    label = column_of(name).label
    if label == name:
        return name
    first, *rest = label.removesuffix(PARTS["gap"][0].removeprefix(" gap")).split(", ")
    first = first if first.startswith("AutoAttack") else first[0].lower() + first[1:]
    return f"{first} ({', '.join(rest)})" if rest else first


def about(measure: Measure) -> str:
    """The measure in its own words: the first paragraph, and what its values are."""
    first = inspect.cleandoc(type(measure).__doc__ or "").split("\n\n")[0]
    return f"{_plain(first)} Values: {_plain(type(measure).keys.__doc__)}"


def _cost(name: str, what: str, unit: str) -> Column:
    if what == "train":
        return Column(name, "Training time", NUMBER, "s", "Wall-clock time of all epochs of the trial.", COST)
    if what == "repeated":
        meaning = "Wall-clock time of training that was done once more, after a worker or a driver died."
        return Column(name, "Repeated training", NUMBER, "s", meaning, COST)
    if unit == "seconds":
        meaning = "Wall-clock time of the measure, all networks of the trial."
        return Column(name, f"Time measuring {what}", NUMBER, "s", meaning, COST)
    meaning = "Forward-backward passes of one image, as predicted from the measure's settings."
    return Column(name, f"Predicted passes of {what}", NUMBER, "passes", meaning, COST)


def _flatness(name: str, case: str, xi: str, options: Sequence[str], group: str) -> Column:
    label, how, by = CASES[case]
    of, unit = ("error", "fraction") if "error" in options else ("loss", "nats")
    label = f"{label} of the error" if "error" in options else label
    shown = [label, f"\N{GREEK SMALL LETTER XI} = {xi}"]
    shown += ["per filter"] if "filter" in options else []
    shown += ["train images"] if "train" in options else []
    what = "each filter" if "filter" in options else "each weight tensor"
    images = "training" if "train" in options else "test"
    meaning = (
        f"Rise of the robust {of} on {images} images, {how}, when weights move {by} {xi} times the norm of {what}."
    )
    return Column(name, ", ".join(shown), NUMBER, unit, meaning, group)


def _plain(doc: str | None) -> str:
    """A docstring in one line, without what only developers can look up."""
    return INTERNAL.sub("", " ".join(inspect.cleandoc(doc or "").split()))
