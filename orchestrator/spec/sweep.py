"""The sweep file, the grid it spans, and the trial: everything that determines one network's weights."""

import itertools
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.addresses import refusal
from orchestrator.errors import suggest
from orchestrator.spec import curvature_measures, impossible, landscape_measures, network_measures  # noqa: F401
from orchestrator.spec.axes import TooManyCells, expand_sweep
from orchestrator.spec.base import Integer, Spec, added_field, digest, place_of, problem
from orchestrator.spec.data import DATA, Data, Digits
from orchestrator.spec.measures import MEASURES, AverageFlatness, Measure, Robustness, WorstFlatness, value_keys
from orchestrator.spec.merging import Path as Place
from orchestrator.spec.methods import METHODS, Method, Standard, Unlabeled, layers
from orchestrator.spec.models import MODELS, Model, SmallPreActResNet
from orchestrator.spec.places import located_storage, storage_problem
from orchestrator.spec.regularizers import REGULARIZERS, Regularizer
from orchestrator.spec.resources import Resources
from orchestrator.spec.training import Ball, Training

SHARED = ("data", "model", "training")
"""What all methods of a grid share."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _in_one_order(value: tuple[Regularizer, ...]) -> tuple[Regularizer, ...]:
    """Regularisers apply in the vocabulary's order, so that writing them the other way round is the same trial."""
    order = REGULARIZERS.names()
    names = [regularizer.name for regularizer in value]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise problem(f"'{name}' is given twice; each regularizer applies once in a trial", index)
    return tuple(sorted(value, key=lambda regularizer: order.index(regularizer.name)))


Regularizers = Annotated[tuple[Annotated[Regularizer, REGULARIZERS], ...], AfterValidator(_in_one_order)]
"""Regularisers that apply together."""


class Trial(Spec):
    """One network: everything that determines its weights."""

    data: Annotated[Data, DATA]
    model: Annotated[Model, MODELS]
    method: Annotated[Method, METHODS]
    regularizers: Regularizers = ()
    training: Training
    seed: Annotated[Integer, Field(ge=0, lt=2**63)]

    @cached_property
    def trial_id(self) -> str:
        """Hash of everything above, in hex."""
        return digest(self)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied.__dict__.pop("trial_id", None)  # `model_copy` changes the copy
        return copied

    @property
    def unlabeled(self) -> Unlabeled | None:
        """How unlabelled images take part, if they do."""
        return next((method for method in layers(self.method) if isinstance(method, Unlabeled)), None)

    @property
    def teacher(self) -> "Trial | None":
        """The trial whose network makes this one's pseudo-labels, if it needs any."""
        unlabeled = self.unlabeled
        if unlabeled is None or unlabeled.labels == "file":
            return None
        return self.model_copy(update={"method": Standard(), "regularizers": (), "seed": unlabeled.teacher_seed})

    @property
    def regularizer_label(self) -> str:
        """The regularisers as one short text; 'none' without any."""
        return " + ".join(regularizer.label() for regularizer in self.regularizers) or "none"

    @property
    def cell(self) -> str:
        """Method and regularisers as text: what the seeds of a cell share."""
        return f"{self.method.label()} | {self.regularizer_label}"

    def label(self) -> str:
        """Short text for people."""
        return f"{self.cell} | seed {self.seed}"


def _regularizer_names(trial: Trial) -> set[str]:
    """What an exclude may call the trial's regularisers."""
    names = {item.name for item in trial.regularizers} | {item.label() for item in trial.regularizers}
    return names | {trial.regularizer_label}


class Exclude(Spec):
    """Cells to leave out: those that match every key given."""

    method: str | None = None
    """A method's name or label."""
    regularizer: str | None = None
    """A regulariser's name or label, or `none`."""
    seed: int | None = None
    """A seed."""

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if self.method is None and self.regularizer is None and self.seed is None:
            raise ValueError("an empty exclude would remove every cell: give method, regularizer or seed")
        return self

    def matches(self, trial: Trial) -> bool:
        """Whether the trial is to be left out."""
        return (
            (self.method is None or self.method in {trial.method.name, trial.method.label()})
            and (self.regularizer is None or self.regularizer in _regularizer_names(trial))
            and (self.seed is None or self.seed == trial.seed)
        )


def _hint(rule: Exclude, cells: list[Trial]) -> str:
    """The nearest name where a rule names a method or regulariser that no cell has."""
    methods = {name for cell in cells for name in (cell.method.name, cell.method.label())}
    if rule.method is not None and rule.method not in methods:
        return f": method '{rule.method}'; {suggest(rule.method, methods)}"
    regularizers = {name for cell in cells for name in _regularizer_names(cell)}
    if rule.regularizer is not None and rule.regularizer not in regularizers:
        return f": regularizer '{rule.regularizer}'; {suggest(rule.regularizer, regularizers)}"
    return ""


DataSets = Annotated[tuple[Annotated[Data, DATA], ...], Field(min_length=1)]
Models = Annotated[tuple[Annotated[Model, MODELS], ...], Field(min_length=1)]
Trainings = Annotated[tuple[Training, ...], Field(min_length=1)]


class Grid(Spec):
    """Methods x regularisers x seeds. A parameter given as a list is one more axis.

    A study that varies one thing at a time is no cross product but a union of grids: `grid` may be a list. Each of its
    grids may change `data`, `model` and `training` for its own trials; what it does not name is the file's. A trial
    that several grids hold is one trial, so that each grid can be written, and read, alone.
    """

    # Why not `training` in a method's entry: the regularisers would still be crossed with every method, to be taken
    # back by long excludes. Why not one file for each study: what two of them share would be trained twice.
    data: DataSets | None = None
    """Merged into the file's `data`, for this grid's trials only; the file's if left out."""
    model: Models | None = None
    """Merged into the file's `model`, likewise."""
    training: Trainings | None = None
    """Merged into the file's `training`, likewise: `{epochs: 30}` changes the epochs alone."""
    methods: Annotated[tuple[Annotated[Method, METHODS], ...], Field(min_length=1)]
    """Training methods, by name or with parameters."""
    regularizers: Annotated[tuple[Regularizers, ...], Field(min_length=1)] = ((),)
    """Each entry is `none`, one regulariser, or a list of regularisers that apply together."""
    seeds: Annotated[tuple[Annotated[Integer, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    """One trial per seed in every cell."""
    exclude: tuple[Exclude, ...] = ()
    """Cells that are left out."""

    def keeps(self, trial: Trial) -> bool:
        """Whether no exclude takes a trial of the grid out."""
        return not any(rule.matches(trial) for rule in self.exclude)


def _with_last(value: tuple[str, ...]) -> tuple[str, ...]:
    """In one order, so that writing them the other way round is the same evaluation."""
    if "last" not in value:
        raise ValueError("'last' is always measured: list it")
    return tuple(name for name in ("last", "best", "kept") if name in value)


Checkpoints = Annotated[tuple[Literal["last", "best", "kept"], ...], AfterValidator(_with_last)]
"""Which of a trial's networks are measured."""


class Evaluation(Spec):
    """What is measured after training."""

    measures: Annotated[tuple[Annotated[Measure, MEASURES], ...], Field(min_length=1)] = Field(
        (Robustness(), AverageFlatness(), WorstFlatness()), validate_default=True
    )
    """Measures, by name or with settings."""
    seed: Annotated[Integer, Field(ge=0, lt=2**63)] = 0
    """Seed of random starts and directions: the same for every trial, so that networks are compared at equal draws."""
    checkpoints: Checkpoints = added_field(("last", "best"))
    """Networks of a trial that are measured, each a row of its own in every table: `last`, always; `best`, where
    `training.early_stopping` says so; `kept`, those of `training.keep_every`."""

    @field_validator("measures")
    @classmethod
    def _no_value_twice(cls, value: tuple[Measure, ...]) -> tuple[Measure, ...]:
        keys = value_keys(value)
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two measures would record the same value: {', '.join(twice)}")
        return value

    @property
    def evaluation_id(self) -> str:
        """Hash of the settings; another one never means training again."""
        return digest(self)


class Tracking(Spec):
    """Where runs are recorded."""

    uri: str | None = None
    """MLflow tracking URI. Left out: MLFLOW_TRACKING_URI if set, else SQLite in the storage folder."""
    experiment: str | None = None
    """MLflow experiment; the sweep's name if left out."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and (reason := refusal(uri)):
            raise PydanticCustomError("secret", "{reason}", {"reason": reason})
        return uri

    @field_validator("experiment")
    @classmethod
    def _one_line(cls, name: str | None) -> str | None:
        if name is not None and (not name or not name.isprintable() or name != name.strip() or len(name) > 200):
            raise ValueError(
                "an experiment's name is one line of 1 to 200 characters, none of them invisible at the ends"
            )
        return name


class Sweep(Spec):
    """A sweep file, axes expanded: `data`, `model` and `training` hold one entry per combination of their axes."""

    name: str
    """Name of the sweep and of its folder: letters, digits, '.', '_', '-'."""
    data: DataSets = Field((Digits(),), validate_default=True)
    """The data set."""
    model: Models = Field((SmallPreActResNet(),), validate_default=True)
    """The network."""
    training: Trainings = (Training(),)
    """Epochs, batch size, optimizer, schedule, attack."""
    grid: Annotated[tuple[Grid, ...], Field(min_length=1)]
    """What is varied: one grid, or a list of grids of which all trials are run."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """What is measured."""
    resources: Resources = Resources()
    """What a trial occupies."""
    storage: str = "runs"
    """Where checkpoints, journals and results go; workers must all reach it: a folder, relative to the sweep file, or
    an address, `s3://bucket/prefix`."""
    tracking: Tracking = Tracking()
    """Where runs are recorded."""

    @model_validator(mode="before")
    @classmethod
    def _expand_axes(cls, value: Any) -> Any:
        try:
            return expand_sweep(value)[0] if isinstance(value, dict) else value
        except TooManyCells as error:
            raise problem(str(error), "grid") from error

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name) or ".." in name:
            raise ValueError(
                f"'{name}' is not a plain name: use letters, digits, '.', '_' and '-' only, at most 100, no path"
            )
        return name

    @field_validator("storage")
    @classmethod
    def _usable_storage(cls, storage: str) -> str:
        if problem := storage_problem(storage):
            # the value is not repeated: it may hold a password
            raise PydanticCustomError("storage", "{problem}", {"problem": problem})
        return storage

    @model_validator(mode="after")
    def _no_trial_twice_in_a_grid(self) -> Self:
        axes: list[tuple[Place, tuple[Any, ...] | None]] = [((key,), getattr(self, key)) for key in SHARED]
        for index, grid in enumerate(self.grid):
            at = ("grid", index)
            axes += [((*at, key), getattr(grid, key)) for key in (*SHARED, "methods", "regularizers", "seeds")]
        for place, values in axes:
            seen = set()
            for index, value in enumerate(values or ()):
                if (key := digest(value)) in seen:
                    raise problem("this is in the grid already: the same trials would be there twice", *place, index)
                seen.add(key)
        return self

    @model_validator(mode="after")
    def _excludes_apply(self) -> Self:
        for number, grid in enumerate(self.grid):
            at = ("grid", number, "exclude")
            left = cells = list(self._cells(grid)) if grid.exclude else []
            for index, rule in enumerate(grid.exclude):
                if not any(rule.matches(cell) for cell in cells):
                    raise problem(f"no cell of the grid matches this exclude{_hint(rule, cells)}", *at, index)
                left = [cell for cell in left if not rule.matches(cell)]
            if cells and not left:
                raise problem("the grid is empty: every cell is excluded", *at)
        return self

    @model_validator(mode="after")
    def _cells_can_be_trained(self) -> Self:
        for number, grid in enumerate(self.grid):
            for of_all_seeds in self._by_seed(grid):
                for cell in itertools.islice(filter(grid.keeps, of_all_seeds), 1):  # the seed makes no difference
                    for (section, *rest), reason in impossible.reasons(cell):
                        raise problem(reason, *self._place_of(str(section), number, cell), *rest)
        return self

    def _place_of(self, section: str, number: int, cell: Trial) -> Place:
        """Where in the sweep the part `section` of a cell of grid `number` comes from."""
        grid, value = self.grid[number], getattr(cell, section)
        if section in {"data", "model", "training"} and not getattr(grid, section):
            return (section, getattr(self, section).index(value))
        name = "methods" if section == "method" else section
        return ("grid", number, name, getattr(grid, name).index(value))

    @model_validator(mode="after")
    def _attacks_fit(self) -> Self:
        """Refuses now what a measure's attack would only show after training."""
        trainings = [training for grid in self.grid for training in grid.training or self.training]
        for index, measure in enumerate(self.evaluation.measures):
            attack = getattr(measure, "attack", None)
            if not isinstance(attack, Ball):
                continue
            for training in trainings:
                try:
                    attack.resolve(training.attack)
                except ValidationError as error:
                    for found in error.errors():
                        place = ("evaluation", "measures", index, "attack", *place_of(found))
                        raise problem(found["msg"], *place) from error
        return self

    def _by_seed(self, grid: Grid) -> Iterator[Iterator[Trial]]:
        """The trials of a grid, excluded or not: for each combination of all else those of its seeds."""
        shared = (grid.data or self.data, grid.model or self.model, grid.training or self.training)
        for parts in itertools.product(*shared, grid.methods, grid.regularizers):
            named: dict[str, Any] = dict(zip((*SHARED, "method", "regularizers"), parts, strict=True))
            # the parts were validated with the sweep: to do it again for ten thousand trials takes seconds
            yield (Trial.model_construct(**named, seed=seed) for seed in grid.seeds)

    def _cells(self, grid: Grid) -> Iterator[Trial]:
        return itertools.chain.from_iterable(self._by_seed(grid))

    def trials(self) -> list[Trial]:
        """Every cell of every grid that is not excluded, once; seeds vary fastest, so that a cell's run together."""
        cells = [cell for grid in self.grid for cell in self._cells(grid) if grid.keeps(cell)]
        if len(self.grid) == 1:
            return cells
        by_id: dict[str, Trial] = {}
        for cell in cells:
            by_id.setdefault(cell.trial_id, cell)
        return list(by_id.values())

    def teachers(self) -> list[Trial]:
        """The trials that are no cell of the grid, but whose networks make pseudo-labels for cells of it."""
        if not any(isinstance(layer, Unlabeled) for grid in self.grid for way in grid.methods for layer in layers(way)):
            return []
        cells = self.trials()
        known = {cell.trial_id for cell in cells}
        found = {teacher.trial_id: teacher for cell in cells if (teacher := cell.teacher) is not None}
        return [teacher for trial_id, teacher in found.items() if trial_id not in known]

    def located(self, base: Path) -> Self:
        """With every path made absolute, taken relative to the folder `base` of the sweep file."""
        storage = located_storage(self.storage, base)
        grids = [
            grid.model_copy(update={"data": tuple(data.located(base) for data in grid.data)}) if grid.data else grid
            for grid in self.grid
        ]
        own = tuple(data.located(base) for data in self.data)
        return self.model_copy(update={"storage": storage, "data": own, "grid": tuple(grids)})

    def data_sets(self) -> list[Data]:
        """Every data set that a trial uses, once."""
        return list(dict.fromkeys(data for grid in self.grid for data in grid.data or self.data))

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment."""
        return self.tracking.experiment or self.name
