"""What a submit would do: the trials of a sweep file against what is recorded of them. Reads, never writes."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from orchestrator.spec.sweep import Evaluation, Sweep, Trial
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.failures import ErrorClass
from workers.repeats import COST as REPEATED_COST
from workers.storage import Folder


class Action(StrEnum):
    """What a submit does with a trial."""

    RUN = "run"
    RESUME = "resume"
    MEASURE = "measure"
    DONE = "done"
    FAILED = "failed"

    @property
    def launches(self) -> bool:
        """Whether a worker is needed."""
        return self in {Action.RUN, Action.RESUME, Action.MEASURE}


@dataclass(frozen=True)
class Traces:
    """What a trial's folder holds: whole epochs and batches in its newest checkpoint, names of its results, epochs
    whose networks were kept."""

    exists: bool = False
    epoch: int = 0
    batch: int = 0
    results: frozenset[str] = frozenset()
    kept: frozenset[int] = frozenset()

    @classmethod
    def of(cls, folder: Folder) -> "Traces":
        """Looks into a trial's folder, by names alone."""
        if not folder.exists(layout.TRIAL):
            return cls()
        names = (folder / layout.CHECKPOINTS).names()
        epoch, batch, _ = max(filter(None, map(layout.parse_checkpoint, names)), default=(0, 0, ""))
        # most trials keep nothing, and a listing costs time
        snapshots = (folder / layout.CHECKPOINTS / layout.SNAPSHOTS).names() if layout.SNAPSHOTS in names else []
        kept = frozenset(found[0] for found in map(layout.parse_snapshot, snapshots) if found)
        return cls(True, epoch, batch, frozenset((folder / layout.MEASURES).names()), kept)


@dataclass(frozen=True)
class Entry:
    """One trial of the plan, with the reason in words."""

    trial: Trial
    trial_id: str
    action: Action
    reason: str
    run: TrialRun | None
    epochs_left: int
    """Epochs still to train."""
    traces: Traces = Traces()
    """What its folder holds."""
    is_teacher: bool = False
    """No cell of the grid: trained only for the pseudo-labels that its network makes, and not measured."""


@dataclass(frozen=True)
class Plan:
    """The whole grid, in the order of the sweep file, and the teachers that it still needs besides."""

    sweep: Sweep
    entries: tuple[Entry, ...]
    teachers: tuple[Entry, ...] = ()
    measure_only: bool = False
    """Trained trials are measured with `sweep.evaluation`, beside what is recorded of them (`flatsweep evaluate`)."""

    def to_launch(self) -> list[Entry]:
        """The trials that need a worker, teachers first."""
        return [entry for entry in (*self.teachers, *self.entries) if entry.action.launches]

    def counts(self) -> Counter[Action]:
        """Number of trials per action."""
        return Counter(entry.action for entry in self.entries)


def make_plan(sweep: Sweep, runs: Iterable[TrialRun], look: Callable[[str], Traces] | None = None) -> Plan:
    """Decides for every trial of the grid.

    Args:
        sweep: with absolute paths.
        runs: what the tracking store holds of the sweep.
        look: from a trial id to what its folder holds; by default looks into the sweep's storage.
    """
    by_id = {run.trial_id: run for run in runs}
    look = look or folder_traces(sweep)

    def entry(trial: Trial, evaluation: Evaluation | None) -> Entry:
        trial_id = trial.trial_id
        run, traces = by_id.get(trial_id), look(trial_id)
        action, reason = decide(trial, evaluation, run, traces)
        left = 0 if action in {Action.DONE, Action.FAILED} else trial.training.epochs - traces.epoch
        return Entry(trial, trial_id, action, reason, run, left, traces, is_teacher=evaluation is None)

    cells = tuple(entry(trial, sweep.evaluation) for trial in sweep.trials())
    needed = needed_teachers(cells)
    return Plan(sweep, cells, tuple(entry(trial, None) for trial in sweep.teachers() if trial.trial_id in needed))


def needed_teachers(cells: Iterable[Entry]) -> set[str]:
    """Ids of the trials whose networks are to label images for cells that are still to be trained."""
    return {teacher.trial_id for cell in cells if cell.epochs_left and (teacher := cell.trial.teacher)}


def folder_traces(sweep: Sweep) -> Callable[[str], Traces]:
    """From a trial id to what its folder holds; one listing tells which trials have a folder at all."""
    root = Folder(sweep.storage) / sweep.name
    present = set(root.names())
    return lambda trial_id: Traces.of(root / trial_id) if trial_id in present else Traces()


def decide(trial: Trial, evaluation: Evaluation | None, run: TrialRun | None, traces: Traces) -> tuple[Action, str]:
    """What to do with one trial, and why; one without evaluation is to be trained only."""
    epochs = trial.training.epochs
    missing = missing_measures(trial, evaluation, traces) if evaluation else []
    if run is not None and run.state == "failed" and not _may_pass(run.error_class):
        return Action.FAILED, f"{run.error_class}: {run.error}"
    if not traces.exists:
        return Action.RUN, "its folder is gone" if run is not None and run.tags.get("attempt") else "new"
    if traces.epoch >= epochs:
        if missing:
            return Action.MEASURE, f"trained; to measure: {', '.join(missing)}"
        if run is None:
            return Action.RESUME, "its run is gone: recorded again from its folder"
        if run.state != "finished" or (evaluation and run.evaluation_id != evaluation.evaluation_id):
            return Action.RESUME, "everything is measured; its run is to be brought up to date"
        return Action.DONE, "finished"
    if run is None and traces.epoch == 0 and traces.batch == 0:
        return Action.RUN, "its run is gone"
    at = f"epoch {traces.epoch} of {epochs}" + (f", batch {traces.batch}" if traces.batch else "")
    why = f"; {run.error_class}" if run and run.error_class else ""
    return Action.RESUME, f"stopped at {at}{why}"


def missing_measures(trial: Trial, evaluation: Evaluation, traces: Traces) -> list[str]:
    """Names of the measures that have no result with these settings, with the network where it is not the last."""
    missing = []
    for network in layout.networks(trial, evaluation, traces.kept):
        for measure in evaluation.measures:
            if layout.result_name(measure, evaluation.seed, network) not in traces.results:
                missing.append(measure.name if network == layout.LAST else f"{measure.name} ({network})")
    return missing


def _may_pass(error_class: str) -> bool:
    return error_class in {kind.value for kind in ErrorClass} and ErrorClass(error_class).passing


@dataclass(frozen=True)
class Estimate:
    """Expected work of a plan in trial-hours (hours on one trial's resources), and how many trials it rests on."""

    trial_hours: float
    recorded: int


def estimate(plan: Plan, runs: Sequence[TrialRun]) -> Estimate | None:
    """From the recorded costs of finished trials: of the same cell if any, else of the same method, else of all.

    Returns:
        None where no trial has finished.
    """
    finished = [run for run in runs if run.state == "finished" and "cost/train_seconds" in run.metrics]
    if not finished:
        return None
    costs = _mean_costs(finished)
    total = 0.0
    for entry in plan.to_launch():
        likeness = _likeness(entry.trial.method.label(), entry.trial.regularizer_label)
        train, measure = next(costs[key] for key in likeness if key in costs)
        total += train * entry.epochs_left / entry.trial.training.epochs + (0.0 if entry.is_teacher else measure)
    return Estimate(total / 3600, len(finished))


_Cell = tuple[str | None, ...]
"""Method and regularisers as recorded; the method alone; nothing: ever more trials are alike."""


def _likeness(method: str | None, regularizer: str | None) -> tuple[_Cell, ...]:
    """The groups that a trial belongs to, the closest first."""
    return (method, regularizer), (method,), ()


def _mean_costs(runs: Sequence[TrialRun]) -> dict[_Cell, tuple[float, float]]:
    """Mean seconds of training and of measuring in each group."""
    groups = defaultdict[_Cell, list[TrialRun]](list)
    for run in runs:
        for key in _likeness(run.tags.get("method"), run.tags.get("regularizer")):
            groups[key].append(run)
    return {
        key: (fmean(run.metrics["cost/train_seconds"] for run in alike), fmean(map(_measure_seconds, alike)))
        for key, alike in groups.items()
    }


def _measure_seconds(run: TrialRun) -> float:
    names = (key for key in run.metrics if key.startswith("cost/") and key.endswith("_seconds"))
    return sum(run.metrics[key] for key in names if key not in {"cost/train_seconds", REPEATED_COST})
