"""Rebuilds a tracking store that was lost, or is older than the storage, from the journals in the storage."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from orchestrator.driver import driver_lock, has_driver
from orchestrator.errors import UserError
from orchestrator.missing import Held, Missing, compare, send
from orchestrator.recorded import TEXT_FILE
from orchestrator.spec.loading import SweepFile
from orchestrator.stored import Left, Stored, stored_runs
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from orchestrator.twins import drop_twins
from workers import unsent
from workers.failures import StorageError
from workers.journal import Journal, Record
from workers.storage import Folder

LOCK_SECONDS = 20.0
"""How long a lost worker may take to die and let go of its trial's folder."""


@dataclass(frozen=True)
class Sent:
    """What was sent of one trial, or would be."""

    trial_id: str
    label: str
    is_new: bool
    """Its run was not there."""
    values: int
    tags: int
    params: int
    files: int
    state: str | None
    """The state that it was put in."""

    @classmethod
    def of(cls, stored: Stored, missing: Missing, is_new: bool) -> "Sent":
        """Counts what `missing` holds."""
        tags = len(missing.tags) + bool(missing.parent)
        files = len(missing.files) + missing.content_file
        counts = len(missing.metrics), tags, len(missing.params), files
        return cls(stored.trial_id, stored.label, is_new, *counts, missing.state)


@dataclass
class Synced:
    """What a sync did, or would do."""

    sweep: str
    store: str
    dry_run: bool
    parent: str = ""
    """What was done with the sweep's own run: 'made', 'brought up to date', or '' where it was right."""
    sent: list[Sent] = field(default_factory=list)
    complete: int = 0
    """Runs that lacked nothing."""
    left: list[Left] = field(default_factory=list)
    """What could not be sent, and why."""
    notes: list[str] = field(default_factory=list)
    """What the storage does not hold."""

    @property
    def changed(self) -> bool:
        """Whether anything was sent, or would be."""
        return bool(self.parent or self.sent)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"left": [one._asdict() for one in self.left]}


def sync(file: SweepFile, *, dry_run: bool = False, say: Callable[[str], None] = lambda _: None) -> Synced:
    """Makes runs that are missing and sends what runs lack; a second time there is nothing to send.

    Args:
        file: the sweep.
        dry_run: send nothing, say what would be sent.
        say: hears of each run, before it is looked at.

    Raises:
        UserError: a driver is at work, nothing is in the storage, or the store cannot be used.
    """
    sweep = file.sweep
    if not Folder(sweep.storage).exists(sweep.name):
        raise UserError(f"nothing of sweep '{sweep.name}' is in the storage {sweep.storage}: there is nothing to sync")
    done = Synced(sweep.name, tracking_uri(sweep), dry_run)
    if dry_run:
        if has_driver(sweep):
            raise UserError(f"sweep '{sweep.name}' is being run; wait for its end, or stop it first")
        _Sync(file, Store.existing(sweep), done, say).run()
        return done
    with driver_lock(sweep):
        store = Store.of(sweep)
        store.prepare()
        _Sync(file, store, done, say).run()
    return done


class _Sync:
    def __init__(self, file: SweepFile, store: Store | None, done: Synced, say: Callable[[str], None]) -> None:
        self._file, self._sweep, self._store, self._done, self._say = file, file.sweep, store, done, say
        self._ends: dict[str, Record] = {}
        """The last state of each trial."""

    def run(self) -> None:
        found, left = stored_runs(self._sweep)
        self._done.left += left
        runs = self._store.trial_runs(self._sweep.name) if self._store else []
        by_id = {run.trial_id: run.run_id for run in runs}
        parent = self._parent(found)
        for number, stored in enumerate(found, 1):
            self._say(f"{number} of {len(found)}: {stored.label}")
            try:
                with stored.folder.lock(LOCK_SECONDS):
                    self._one(stored, by_id.get(stored.trial_id), parent)
                    if not self._done.dry_run:
                        unsent.note(stored.folder, None)
            except StorageError as problem:
                self._done.left.append(Left(stored.trial_id, f"{problem}; try again when it is through"))
        if self._store is not None and not self._done.dry_run:
            count = len({run.trial_id for run in runs} | {one.trial_id for one in self._done.sent})
            drop_twins(self._store, self._sweep.name, parent, (), count)
        self._settle(parent)
        self._missing_notes(found, by_id)
        stored_ids = {stored.trial_id for stored in found}
        for run in runs:
            if run.status == "RUNNING" and run.trial_id not in stored_ids:
                why = "its run says RUNNING and its folder is gone; `flatsweep doctor --fix` closes it"
                self._done.left.append(Left(run.trial_id, why))

    def _one(self, stored: Stored, run_id: str | None, parent: str) -> None:
        records = self._records(stored)
        if stored.is_external and self._state(stored) != "finished":
            self._done.left.append(
                Left(stored.trial_id, "it is not measured to its end: `flatsweep measure --record-in` goes on with it")
            )
            return
        held = Held.new(stored, parent)
        if run_id is not None and self._store is not None:
            folders = {"", *(_place(record.key) for record in records if record.kind == "file")}
            with self._store.reached():
                held = Held.read(self._store.client, run_id, records, folders)
        missing = compare(stored, records, held, parent)
        self._done.notes += [f"{stored.trial_id}: {path} is gone from the storage" for path in missing.gone]
        if run_id is not None and not missing:
            self._done.complete += 1
            return
        self._done.sent.append(Sent.of(stored, missing, run_id is None))
        if self._store is None or self._done.dry_run:
            return
        origin = stored.origin
        if run_id is None:
            made_ms = origin.made_ms or min((record.time_ms for record in records), default=None)
            run_id = self._store.create_run(stored.content, self._sweep.name, parent, origin.tags, made_ms)
        with self._store.reached():
            send(self._store.client, run_id, stored, missing)

    def _records(self, stored: Stored) -> list[Record]:
        """The journal; a trial that says it is running, while its folder is ours, is interrupted."""
        journal = Journal(stored.folder)
        records = list(journal.records)
        states = [record for record in records if record.kind == "state"]
        if states and states[-1].text == "running" and not stored.is_external:
            states = [replace(states[-1], text="interrupted", time_ms=records[-1].time_ms)]
            records += states
            if not self._done.dry_run:
                journal.add(states)
        if states:
            self._ends[stored.trial_id] = states[-1]
        return records

    def _state(self, stored: Stored) -> str:
        end = self._ends.get(stored.trial_id)
        return end.text if end else ""

    def _parent(self, found: Sequence[Stored]) -> str:
        """The sweep's own run, made if missing; 'new' where a dry run would make it."""
        run_id = self._store.parent_run(self._sweep.name) if self._store else None
        root = Folder(self._sweep.storage) / self._sweep.name
        text = root.read(TEXT_FILE).decode(errors="replace") if root.exists(TEXT_FILE) else self._file.text
        if run_id is not None and self._store is not None:
            with self._store.reached():
                if not any(item.path == TEXT_FILE for item in self._store.client.list_artifacts(run_id)):
                    self._done.parent = "brought up to date"
                    if not self._done.dry_run:
                        self._store.log_sweep(run_id, self._sweep, text)
            return run_id
        self._done.parent = "made"
        if self._store is None or self._done.dry_run:
            return "new"
        origins = (stored.origin for stored in found if stored.origin.made_ms and not stored.is_external)
        made = sorted(origins, key=lambda origin: origin.made_ms or 0)
        source, made_ms = (made[0].tags, made[0].made_ms) if made else ({}, None)
        profile = made[-1].profile if made else self._file.profile
        return self._store.create_parent(self._sweep, text, source, profile, made_ms)

    def _settle(self, parent: str) -> None:
        """Closes the sweep's own run if it is new, or says RUNNING, or does not know that all has ended."""
        cells = {trial.trial_id: trial for trial in self._sweep.trials()}
        ended = {trial_id for trial_id, end in self._ends.items() if end.text in {"finished", "failed"}}
        state = "finished" if ended >= cells.keys() else "interrupted"
        status = "RUNNING"
        if self._store is not None and self._done.parent != "made":
            with self._store.reached():
                status = self._store.client.get_run(parent).info.status
        if status == "RUNNING" or (state == "finished" and status != "FINISHED"):
            self._done.parent = self._done.parent or "brought up to date"
            if self._store is not None and not self._done.dry_run:
                last_ms = max((end.time_ms for end in self._ends.values()), default=None)
                self._store.close_parent(parent, state, last_ms)

    def _missing_notes(self, found: Sequence[Stored], by_id: dict[str, str]) -> None:
        """Says what a new run cannot be given."""
        bare = [stored for stored in found if stored.trial_id not in by_id and stored.origin.made_ms is None]
        if bare:
            self._done.notes.append(
                f"for {len(bare)} new runs the storage does not say which commit and versions of Ray and MLflow made "
                "them, or where a network from elsewhere was loaded from: an earlier flatsweep did not note it"
            )


def _place(path: str) -> str:
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent
