"""Runs a plan on Ray Tune. Nothing is kept in Ray alone."""

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from orchestrator.addresses import without_secret
from orchestrator.cancel import Requests, Watch
from orchestrator.limits import Budget, Limits
from orchestrator.local_folder import local_folder
from orchestrator.nodes import check_nodes
from orchestrator.placement import check_fits, wanted
from orchestrator.plan import Entry, Plan, folder_traces
from orchestrator.priority import Turn
from orchestrator.ray_session import is_local, ray_session, scratch_folder
from orchestrator.rounds import run_in_rounds
from orchestrator.settings import trial_labels
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri


@dataclass(frozen=True)
class Outcome:
    """How a launch ended."""

    stopped_by: str | None
    """What stopped it before every trial was through: `signal` (Ctrl-C, SIGTERM), `cancel` or `max_hours`."""
    lost: frozenset[str]
    """Ids of trials whose worker or storage was lost more often than `max_retries` allows."""


def launch(
    plan: Plan,
    record: Callable[[], Mapping[str, str]],
    console: Console,
    address: str | None,
    store: Store,
    limits: Limits | None = None,
) -> Outcome:
    """Runs every trial of the plan that needs a worker, and returns when all are through or the user stops it.

    Args:
        plan: what to run.
        record: makes the runs once Ray is there and a trial fits it; returns trial id -> MLflow run id.
        console: where progress is shown.
        address: of a Ray cluster; RAY_ADDRESS if not given, a local Ray if neither is.
        store: where requests to cancel are looked for.
        limits: what it may take of cluster and time; its hours count from here.

    Raises:
        UserError: no Ray at the address, or no node can ever hold a trial.
    """
    limits = limits or Limits()
    budget = Budget(limits.max_hours)
    entries = plan.to_launch()
    done = sum(not entry.action.launches for entry in plan.entries)
    labels = trial_labels([entry.trial for entry in (*plan.teachers, *plan.entries)])
    with (
        scratch_folder(local_folder(plan.sweep)) as scratch,
        ray_session(address, scratch),  # before `_Stop`: Ray sets a handler of its own for SIGTERM, which aborts
        _Stop(console, budget) as stop,
    ):
        check_fits(plan.sweep.resources)
        if not is_local(address):
            check_nodes(plan.sweep, wanted(plan.sweep.resources))
        run_ids = record()
        console.print("starting workers, which import PyTorch before the first trials", markup=False, highlight=False)
        from orchestrator.live import LiveView

        turn = Turn(plan.sweep.name, limits.priority, wanted(plan.sweep.resources))
        lost, left = set[str](), list[Entry]()
        with LiveView(labels, done, console) as view, Watch(store, plan.sweep.name, stop.cancel):

            def run(ready: Sequence[Entry]) -> Any:
                results = _tuner(ready, plan, run_ids, scratch, stop.stopper(turn), view, limits).fit()
                view.put_aside()
                return results

            for stage in stages(entries):
                more, still = run_in_rounds(_with_teacher(stage, plan.sweep, console), run, turn, stop, console)
                lost |= more
                left += still
    return Outcome(stop.by if left else None, frozenset(lost))


def stages(entries: list[Entry]) -> list[list[Entry]]:
    """What can run at once: first all that waits for nobody, then those whose teacher is among the first."""
    running = {entry.trial_id for entry in entries}
    waits = [bool((teacher := entry.trial.teacher) and teacher.trial_id in running) for entry in entries]
    halves = [[entry for entry, later in zip(entries, waits, strict=True) if later is which] for which in (False, True)]
    return [half for half in halves if half]


def _with_teacher(entries: list[Entry], sweep: Sweep, console: Console) -> list[Entry]:
    """Those whose teacher, if they still need one, is trained; the others are named."""
    look, ready = folder_traces(sweep), []
    for entry in entries:
        teacher = entry.trial.teacher if entry.epochs_left else None
        if teacher is None or look(teacher.trial_id).epoch >= teacher.training.epochs:
            ready.append(entry)
        else:
            why = f"its teacher {teacher.trial_id} is not trained"
            console.print(f"not run    {entry.trial.label()}: {why}", markup=False, highlight=False, soft_wrap=True)
    return ready


def _tuner(
    entries: Sequence[Entry],
    plan: Plan,
    run_ids: Mapping[str, str],
    scratch: Path,
    stopper: Any,
    view: Any,
    limits: Limits,
) -> Any:
    from ray import tune

    from orchestrator.trainable import Assignment, TrialActor

    sweep, resources = plan.sweep, plan.sweep.resources
    assignments = [
        Assignment(
            trial=entry.trial.model_dump_json(),
            evaluation="" if entry.is_teacher else sweep.evaluation.model_dump_json(),
            measure_only=plan.measure_only,
            folder=f"{sweep.storage}/{sweep.name}/{entry.trial_id}",
            tracking_uri=without_secret(tracking_uri(sweep)),
            run_id=run_ids[entry.trial_id],
            trial_id=entry.trial_id,
            cpu=resources.cpu,
            gpu=resources.gpu,
        )
        for entry in entries
    ]
    return tune.Tuner(
        tune.with_resources(TrialActor, tune.PlacementGroupFactory([wanted(resources)])),
        param_space={"assignment": tune.grid_search(assignments)},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=limits.max_concurrent or resources.max_concurrent,
            trial_name_creator=lambda trial: str(trial.config["assignment"]["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["assignment"]["trial_id"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=resources.max_retries),
            # the trial's folder holds its checkpoints; Ray keeps none
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            callbacks=[view],
            stop=stopper,
        ),
    )


class _Stop:
    """Turns Ctrl-C, SIGTERM and the end of the time into an orderly end. Ctrl-C after that forces it."""

    def __init__(self, console: Console, budget: Budget) -> None:
        self.by: str | None = None
        """What asked for it: `signal`, `cancel` or `max_hours`."""
        self.cancelled: frozenset[str] = frozenset()
        """Ids of trials that somebody wants to end, whatever becomes of the others."""
        self._console, self._budget = console, budget
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether to end."""
        if self.by is None and self._budget.used_up:
            why = f"the {self._budget.hours:g} hours are used up"
            self._ask("max_hours", f"{why}: running trials save a checkpoint (Ctrl-C stops at once)")
        return self.by is not None

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.by is not None:
            raise KeyboardInterrupt
        self._ask("signal", "stopping: running trials save a checkpoint (once more stops at once)")

    def cancel(self, wanted: Requests) -> None:
        """Hears what somebody wants stopped; called from another thread, and again until it is."""
        if wanted.trials - self.cancelled:
            self._say(f"cancelled by its user: {', '.join(sorted(wanted.trials))}")
            self.cancelled |= wanted.trials
        if wanted.sweep and self.by is None:
            self._ask("cancel", "cancelled by its user: running trials save a checkpoint")

    def _ask(self, by: str, text: str) -> None:
        self.by = by
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stopper(self, turn: Turn) -> Any:
        """For Ray Tune: ends every trial once a stop was requested or the turn is over, and those cancelled."""
        from ray.tune import Stopper
        from ray.tune.stopper import NoopStopper

        outer = self

        class StopAll(Stopper):  # type: ignore[misc]
            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
                return result["config"]["assignment"]["trial_id"] in outer.cancelled

            def stop_all(self) -> bool:
                return outer.requested or turn.is_over()

            def __reduce__(self) -> tuple[type[NoopStopper], tuple[()]]:
                # Tune pickles it for Tuner.restore, which flatsweep does not use
                return NoopStopper, ()

        return StopAll()
