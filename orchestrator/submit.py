"""One driver of one sweep at a time: lock, plan, runs, launch, and a clean record whatever happened."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from orchestrator import cancel
from orchestrator.addresses import shown
from orchestrator.driver import driver_lock
from orchestrator.errors import UserError
from orchestrator.launch import launch
from orchestrator.limits import Limits
from orchestrator.local_copy import confirmed_runs
from orchestrator.origins import note
from orchestrator.plan import Action, Plan, make_plan, needed_teachers
from orchestrator.preflight import check
from orchestrator.recorded import remember
from orchestrator.run_content import RunContent
from orchestrator.sink import STATUS
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from orchestrator.twins import drop_twins, without_twins
from orchestrator.versions import source_tags
from workers import faults, unsent
from workers.failures import ErrorClass, StorageError
from workers.journal import Journal, Record
from workers.leases import LEASE_SECONDS
from workers.storage import Folder

logger = logging.getLogger(__name__)

LOST_SECONDS = LEASE_SECONDS + 8.0
"""How long a lost worker may take to die and let go of its trial's folder; on an object store its lease runs out."""

_NO_ERROR = {"error_class": "", "error": ""}
"""The tags of a trial that did not fail."""

Prepare = Callable[[Store, Plan], Plan]
"""What a command does with the plan before it is launched, such as taking failed trials up again."""


@dataclass(frozen=True)
class Submitted:
    """What a submit did."""

    plan: Plan
    """As it was before."""
    launched: int
    stopped_by: str | None
    """What stopped it before every trial was through: `signal`, `cancel` or `max_hours`."""
    after: Plan
    """As it is now."""
    parent_run_id: str | None

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before every trial was through."""
        return self.stopped_by is not None


def submit(
    file: SweepFile,
    console: Console,
    *,
    address: str | None = None,
    prepare: Prepare | None = None,
    started: Callable[[], None] | None = None,
    limits: Limits | None = None,
) -> Submitted:
    """Runs what is missing of a sweep, and nothing else.

    Args:
        file: the sweep file, read.
        console: where progress is shown.
        address: of a Ray cluster.
        prepare: changes the record and the plan first.
        started: called once everything is checked and the runs are made.
        limits: what it may take of cluster and time.

    Raises:
        UserError: the sweep cannot run, or another driver runs it.
    """
    sweep = file.sweep

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    check(sweep, address)
    with driver_lock(sweep):
        (Folder(sweep.storage) / sweep.name).finish_moves()
        store = Store.of(sweep)
        store.check_place()
        runs = confirmed_runs(sweep, store)
        whole = without_twins(store, runs)
        if close_orphans(store, sweep, runs=whole) or whole != runs:
            runs = confirmed_runs(sweep, store)
        plan = make_plan(sweep, runs)
        faults.point("driver/planned")
        parent_left = store.settle_parent(sweep.name, "interrupted" if plan.to_launch() else "finished")
        if prepare:
            plan = prepare(store, plan)
        entries = plan.to_launch()
        if not entries:
            return Submitted(plan, 0, None, plan, parent_left)
        commit = file.commit
        recorded: dict[str, str] = {}
        made = [entry.trial_id for entry in entries if entry.run is None]
        trials = len({*made, *(run.trial_id for run in runs)})

        def record() -> dict[str, str]:
            """The runs, made once nothing but the trials themselves can go wrong."""
            store.prepare()
            remember(file)
            recorded["parent"] = parent = store.open_parent(sweep, file.text, commit, file.profile)
            cancel.answer(store, [parent])  # one that was left while nobody drove the sweep is not meant for us
            say(f"recording {len(entries)} runs in {shown(store.uri)}")
            tags = source_tags(commit)
            note(Folder(sweep.storage) / sweep.name, made, tags, file.profile)
            run_ids = dict[str, str]()
            for entry in entries:
                content = RunContent.of_trial(entry.trial, sweep.evaluation)
                if entry.run:
                    store.complete_run(entry.run, content)
                run_id = entry.run.run_id if entry.run else store.create_run(content, sweep.name, parent, tags)
                run_ids[entry.trial_id] = run_id
                faults.point("driver/run-made", run_id)
            drop_twins(store, sweep.name, parent, run_ids.values(), trials)
            if started:
                started()
            return run_ids

        state = "failed"
        try:
            say(f"starting Ray for {len(entries)} trials")
            outcome = launch(plan, record, console, address, store, limits)
            faults.point("driver/launched")
            # a worker that died while it measured once more has not undone what its trial is
            close_orphans(store, sweep, frozenset() if plan.measure_only else outcome.lost)
            state = "interrupted" if outcome.stopped_by else "finished"
        finally:
            if state == "failed":
                close_orphans(store, sweep)
            faults.point("driver/closing")
            if "parent" in recorded:
                drop_twins(store, sweep.name, recorded["parent"], (), trials)
                store.close_parent(recorded["parent"], state)
        after = make_plan(sweep, confirmed_runs(sweep, store))
        return Submitted(plan, len(entries), outcome.stopped_by, after, recorded["parent"])


def close_orphans(
    store: Store, sweep: Sweep, lost: frozenset[str] = frozenset(), runs: Sequence[TrialRun] | None = None
) -> list[TrialRun]:
    """Brings every run that says RUNNING, while no worker can have it, in line with its trial's journal, and the status
    of the others in line with their state.

    Call it only as the sweep's one driver. A trial that ended is closed as its journal says; one that did not is
    'interrupted', or failed as worker_lost if it is among `lost`. Those that somebody cancelled are failed as such.
    `runs` are those that the store holds; it is asked for them if they are not given.

    Returns:
        The runs that were closed.
    """
    closed = []
    for run in confirmed_runs(sweep, store) if runs is None else runs:
        failure: tuple[ErrorClass, str] | None = None
        if run.tags.get(cancel.TAG) == cancel.REQUESTED and run.state not in {"finished", "failed"}:
            failure = ErrorClass.CANCELLED, "by its user"
        elif run.trial_id in lost and run.state != "failed":
            failure = ErrorClass.WORKER_LOST, "its worker died"
        half_sent = run.state in STATUS and STATUS[run.state] != run.status
        if half_sent and run.status != "RUNNING" and run.state != "running" and not failure:
            store.set_state(run.run_id, run.state)  # its sender died after the tags, the status is sent last
            closed.append(run)
        elif run.status == "RUNNING" or half_sent or failure:
            _close(store, run, Folder(f"{sweep.storage}/{sweep.name}/{run.trial_id}"), failure)
            closed.append(run)
        if run.tags.get(cancel.TAG):
            cancel.answer(store, [run.run_id])
    return closed


def _close(store: Store, run: TrialRun, folder: Folder, failure: tuple[ErrorClass, str] | None) -> None:
    """Ends a run as its journal says, or, where the trial did not end, with the failure or as interrupted."""
    from orchestrator.sink import RunSink

    state = "failed" if failure else "interrupted"
    error = {"error_class": failure[0].value, "error": failure[1]} if failure else {}
    if not folder.names():
        store.set_state(run.run_id, state, error)
        return
    try:
        with folder.lock(LOST_SECONDS):
            journal = Journal(folder)
            states = [record.text for record in journal.records if record.kind == "state"]
            if not states or states[-1] in {"pending", "running"} or (failure and states[-1] == "interrupted"):
                tags = [Record("tag", key, text=text) for key, text in error.items()]
                journal.add([*tags, Record("state", "state", text=state)])
            with store.reached():
                RunSink(store.uri, run.run_id, folder).send(journal.records)
            unsent.note(folder, None)
    except StorageError as problem:
        raise UserError(f"{problem}: it may belong to a driver that was killed; try again in a moment") from problem


def _wait_again(folder: Folder) -> None:
    """Says in a trial's journal that its failure is over: else a store rebuilt from it would have it failed again."""
    if not folder.names():
        return
    with folder.lock(LOST_SECONDS):
        tags = [Record("tag", key, text=text) for key, text in _NO_ERROR.items()]
        Journal(folder).add([*tags, Record("state", "state", text="pending")])


def rerun_failed(trials: frozenset[str], error_class: str | None, from_scratch: bool) -> Callable[[Store, Plan], Plan]:
    """A `Prepare` that takes failed trials up again and leaves all else alone.

    Args:
        trials: ids (or their first digits) of the trials to rerun; empty for all failed ones.
        error_class: only trials that failed in this way.
        from_scratch: put what they have aside and begin again, instead of going on from the last checkpoint.
    """

    def prepare(store: Store, plan: Plan) -> Plan:
        chosen = []
        for entry in (*plan.teachers, *plan.entries):
            named = any(entry.trial_id.startswith(prefix) for prefix in trials)
            wanted = named if trials else entry.action is Action.FAILED
            # a finished trial runs again only when it is named and everything it has is put aside
            able = entry.action is not Action.DONE or from_scratch
            right_class = error_class is None or (entry.run is not None and entry.run.error_class == error_class)
            if wanted and able and right_class:
                chosen.append(entry)
        known = [entry.trial_id for entry in (*plan.teachers, *plan.entries)]
        unknown = [name for name in trials if not any(trial_id.startswith(name) for trial_id in known)]
        if unknown:
            raise UserError(f"no trial of '{plan.sweep.name}' has an id that begins with {', '.join(sorted(unknown))}")
        for entry in chosen:
            folder = Folder(plan.sweep.storage) / plan.sweep.name
            if from_scratch and (folder / entry.trial_id).names():
                number = sum(name.startswith(f"{entry.trial_id}.old-") for name in folder.names())
                folder.rename(entry.trial_id, f"{entry.trial_id}.old-{number + 1}")
            _wait_again(folder / entry.trial_id)
            if entry.run:
                store.set_state(entry.run.run_id, "pending", {**_NO_ERROR, cancel.TAG: cancel.DONE})
        ids = {entry.trial_id for entry in chosen}
        again = make_plan(plan.sweep, confirmed_runs(plan.sweep, store))
        cells = tuple(entry for entry in again.entries if entry.trial_id in ids)
        kept = ids | needed_teachers(cells)
        return Plan(plan.sweep, cells, tuple(entry for entry in again.teachers if entry.trial_id in kept))

    return prepare
