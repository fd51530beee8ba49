"""Runs a plan on Ray Tune, on a local Ray of its own where no address is given. Nothing is kept in Ray alone."""

import contextlib
import functools
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from orchestrator.addresses import without_secret
from orchestrator.cancel import Requests, Watch
from orchestrator.errors import UserError
from orchestrator.limits import Budget, Limits
from orchestrator.local_folder import local_folder
from orchestrator.nodes import check_nodes
from orchestrator.placement import check_fits, wanted
from orchestrator.plan import Entry, Plan, folder_traces
from orchestrator.priority import Turn
from orchestrator.rounds import run_in_rounds
from orchestrator.settings import trial_labels
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri

SCRATCH_PREFIX, SCRATCH_NOTE = "flatsweep-", ".driver.scratch"
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable, read at import (ray._private.ray_constants): at 0 a Ray takes itself for one machine's."""


START_ATTEMPTS = 3

logger = logging.getLogger(__name__)


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
        _scratch(local_folder(plan.sweep)) as scratch,
        ray_session(address, scratch),
        _Stop(console, budget) as stop,
    ):
        check_fits(plan.sweep.resources)
        if not _is_local(address):
            check_nodes(plan.sweep, wanted(plan.sweep.resources))
        run_ids = record()
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


def left_scratch(folder_here: Path) -> Path | None:
    """The scratch folder that a driver noted in this machine's folder of a sweep; once it is dead, nobody needs it."""
    note = folder_here / SCRATCH_NOTE
    if not note.exists():
        return None
    left = Path(note.read_bytes().replace(b"\0", b"").decode(errors="replace"))
    # the note lies in the storage, where others may write: nothing but what `_scratch` makes is removed
    return left if left.name.startswith(SCRATCH_PREFIX) and left.parent == Path(tempfile.gettempdir()) else None


@contextlib.contextmanager
def _scratch(folder_here: Path) -> Iterator[Path]:
    """A folder for what Ray writes; nothing in it is needed afterwards. Its path is short, as sockets' paths must be.

    A killed driver leaves its own behind: the next one finds it noted in this machine's folder of the sweep and
    removes it.
    """
    folder_here.mkdir(parents=True, exist_ok=True)
    note = folder_here / SCRATCH_NOTE
    if (left := left_scratch(folder_here)) is not None:
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    note.write_text(str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def ray_session(address: str | None, scratch: Path) -> Iterator[None]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or a Ray of our own that is stopped again."""
    address = _chosen(address)
    # before ray is imported: it reads these at import, and its processes inherit them
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune's own record of the experiment is for Tuner.restore, which flatsweep does not use
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's newer reporter prints tables whatever the verbosity
    # side by side, threads that spin while they wait take the cores from those that work
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with contextlib.ExitStack() as ours:
        if address == "local":
            ours.enter_context(_on_loopback())
            ours.enter_context(_in_groups_of_their_own())
        ours.enter_context(_connected(address, scratch))
        yield


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's processes listen on the loopback address alone, as they do on macOS and Windows; else on every one."""
    from ray._private import ray_constants

    users, before = os.environ.get(LOOPBACK_SWITCH), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_SWITCH], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for Ray's processes, and for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(LOOPBACK_SWITCH)
        if users is not None:
            os.environ[LOOPBACK_SWITCH] = users


@contextlib.contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Ray's processes do not get the signals that are sent to our process group, as some batch systems send SIGTERM:
    they have to live until the trials have saved their checkpoints. Ray itself does this on Windows only."""
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = functools.partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextlib.contextmanager
def _connected(address: str, scratch: Path) -> Iterator[None]:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "local":
        options |= {"include_dashboard": False, "_temp_dir": str(scratch / "ray"), "object_store_memory": 100 * 2**20}
    _init(address, options)
    # a lost worker is shown by the live view and recorded; Tune's traceback of it says nothing more
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, options: dict[str, Any]) -> None:
    """`ray.init`, once more where a busy machine was too slow: Ray gives its own Python processes 15 s to begin, which
    no setting changes (github.com/ray-project/ray/issues/65983)."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            # Ray raises a bare Exception where a node is late, and its own kinds for everything else
            late = type(error) is Exception and "timed out during startup" in str(error)
            if not late and not isinstance(error, (ConnectionError, ValueError, RuntimeError, OSError)):
                raise
            ray.shutdown()
            if not late or attempt == START_ATTEMPTS:
                raise UserError(f"cannot use Ray at '{address}': {str(error).splitlines()[0]}") from error
            logger.warning("Ray did not start in time, trying again: is this machine very busy?")


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _is_local(address: str | None) -> bool:
    return _chosen(address) == "local"


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
