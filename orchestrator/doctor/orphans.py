"""What a driver that died left behind: runs that nobody works on, folders without a run, runs without one, scratch.

It is looked at without a driver only: a live one changes all of it.
"""

import re
import shutil
from collections.abc import Iterator, Sequence

from orchestrator.doctor.finding import Finding, Level, Question
from orchestrator.driver import driver_lock, has_driver
from orchestrator.local_folder import local_folder
from orchestrator.ray_session import SCRATCH_NOTE, left_scratch
from orchestrator.spec.sweep import Sweep
from orchestrator.stored import trial_folder_names
from orchestrator.submit import close_orphans
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.failures import StorageError
from workers.storage import Folder

CHECK = "orphans"
FIX = "`flatsweep doctor --fix`"
SHOWN = 4
"""Ids in a line."""
LOCK_SECONDS = 0.2
ASIDE = re.compile(r"\..+\.[0-9a-f]{32}\.part")
"""Files that were being written (`workers.storage.Folder.write`) when their process died."""


def findings(question: Question) -> list[Finding]:
    """A line for each kind of thing that is left; one where there is none."""
    sweep = question.sweep
    if sweep is None:
        return [Finding(CHECK, Level.OK, "no sweep: no runs to look at")]
    if has_driver(sweep):
        return [Finding(CHECK, Level.OK, f"a driver runs '{sweep.name}' at this moment: what it leaves is not known")]
    store = Store.existing(sweep)
    runs = store.trial_runs(sweep.name) if store else []
    root = Folder(sweep.storage) / sweep.name
    names = root.names()
    folders = list(trial_folder_names(root, names))
    worked_on = {name for name in folders if _is_locked(root / name)}
    found = [*_left_runs(runs, worked_on), *_parent(store, sweep), *_halves(runs, folders, worked_on)]
    found += _scratch(sweep, root, [name for name in folders if name not in worked_on])
    return found or [Finding(CHECK, Level.OK, f"{len(runs)} runs and {len(folders)} folders, and nothing is left over")]


def mend(sweep: Sweep) -> list[str]:
    """Closes runs that nobody works on, as `submit` does, and removes left scratch; returns what was done.

    Raises:
        UserError: a driver is at work.
    """
    done: list[str] = []
    if not Folder(sweep.storage).exists(sweep.name):
        return done
    with driver_lock(sweep):
        if (store := Store.existing(sweep)) is not None:
            closed = close_orphans(store, sweep)
            done += [f"closed run {run.run_id} of trial {run.trial_id}" for run in closed]
            was = _parent_is_open(store, sweep)
            ended = all(run.state in {"finished", "failed"} for run in store.trial_runs(sweep.name))
            store.settle_parent(sweep.name, "finished" if ended else "interrupted")
            done += [f"closed the sweep's own run {was}"] if was else []
        root = Folder(sweep.storage) / sweep.name
        here = local_folder(sweep)
        if (scratch := left_scratch(here)) is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            (here / SCRATCH_NOTE).unlink()
            done.append(f"removed {scratch}")
        for name in trial_folder_names(root, root.names()):
            done += _without_asides(root / name)
    return done


def _left_runs(runs: Sequence[TrialRun], worked_on: set[str]) -> Iterator[Finding]:
    running = [run for run in runs if run.status == "RUNNING"]
    if busy := [run.trial_id for run in running if run.trial_id in worked_on]:
        what = f"{_ids(busy)} still worked on, though the driver is gone: the worker ends by itself"
        yield Finding(CHECK, Level.WARNING, what, "look again in a minute")
    if dead := [run.trial_id for run in running if run.trial_id not in worked_on]:
        what = f"{_ids(dead)} RUNNING, while no driver and no worker is there"
        yield Finding(CHECK, Level.PROBLEM, what, f"{FIX} closes them; `flatsweep submit` goes on with them")
    if waiting := [run.trial_id for run in runs if run.status == "SCHEDULED" and run.trial_id not in worked_on]:
        what = f"{_ids(waiting)} SCHEDULED, while no driver is there"
        yield Finding(CHECK, Level.WARNING, what, "`flatsweep submit` runs them")


def _parent(store: Store | None, sweep: Sweep) -> Iterator[Finding]:
    if store is not None and _parent_is_open(store, sweep):
        what = "the sweep's own run says RUNNING, while no driver is there"
        yield Finding(CHECK, Level.PROBLEM, what, f"{FIX} closes it")


def _parent_is_open(store: Store, sweep: Sweep) -> str:
    """Its id if it says RUNNING, else ''."""
    run_id = store.parent_run(sweep.name)
    if run_id is None:
        return ""
    with store.reached():
        return run_id if store.client.get_run(run_id).info.status == "RUNNING" else ""


def _halves(runs: Sequence[TrialRun], folders: Sequence[str], worked_on: set[str]) -> Iterator[Finding]:
    """What has a run or a folder and not the other, or more than one."""
    recorded = [run.trial_id for run in runs]
    if lone := sorted(set(folders) - set(recorded) - worked_on):
        what = f"{_ids(lone)} a folder in the storage, and no run"
        yield Finding(CHECK, Level.WARNING, what, "`flatsweep sync` makes the runs from the folders")
    begun = {run.trial_id for run in runs if run.state != "pending"}
    if bare := sorted(begun - set(folders)):
        what = f"{_ids(bare)} a run, and no folder in the storage: checkpoints and results are gone"
        yield Finding(CHECK, Level.WARNING, what, "give the right --storage; `flatsweep submit` would train again")
    if twice := sorted({trial_id for trial_id in recorded if recorded.count(trial_id) > 1}):
        what = f"{_ids(twice)} several runs; the newest counts"
        yield Finding(CHECK, Level.WARNING, what, "delete the others in MLflow")


def _scratch(sweep: Sweep, root: Folder, folders: Sequence[str]) -> Iterator[Finding]:
    if (scratch := left_scratch(local_folder(sweep))) is not None:
        what = f"a driver that died left its note, and the scratch folder {scratch}"
        yield Finding(CHECK, Level.WARNING, what, f"{FIX} removes them; so does the next `flatsweep submit`")
    count = sum(len(names) for name in folders for _, names in _asides(root / name))
    if count:
        what = f"{count} half-written files lie in the folders of '{sweep.name}'"
        yield Finding(CHECK, Level.WARNING, what, f"{FIX} removes them")


def _asides(folder: Folder) -> Iterator[tuple[Folder, list[str]]]:
    checkpoints = folder / layout.CHECKPOINTS
    for place in (folder, checkpoints, checkpoints / layout.SNAPSHOTS, folder / layout.MEASURES):
        yield place, [name for name in place.names() if ASIDE.fullmatch(name)]


def _without_asides(folder: Folder) -> list[str]:
    """Removes half-written files, unless somebody works there; says which."""
    if not any(names for _, names in _asides(folder)):
        return []
    removed = []
    try:
        with folder.lock(LOCK_SECONDS):
            for place, names in _asides(folder):
                for name in names:
                    place.delete(name)
                    removed.append(f"removed {place}/{name}")
    except StorageError:
        return removed
    return removed


def _is_locked(folder: Folder) -> bool:
    """Whether a worker is at work there."""
    try:
        with folder.lock(0):
            return False
    except StorageError:
        return True


def _ids(trial_ids: Sequence[str]) -> str:
    """`1 trial has (abc)`: whatever follows is about it or them."""
    shown = ", ".join(trial_ids[:SHOWN]) + (", ..." if len(trial_ids) > SHOWN else "")
    return f"{len(trial_ids)} trials ({shown}):" if len(trial_ids) > 1 else f"trial {shown}:"
