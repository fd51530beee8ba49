"""What a sweep's folder holds that nothing needs any more, and its removal."""

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.driver import driver_lock, has_driver
from orchestrator.errors import UserError
from orchestrator.evaluations import recorded
from orchestrator.plan import Traces, missing_measures
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.spec.training import every_of
from workers import layout, retention
from workers.failures import StorageError
from workers.storage import Folder

LEFT_OVER = "left by a writer that was killed"
_ASIDE = re.compile(r"([0-9a-f]{16,64})\.old-\d+")


@dataclass(frozen=True)
class Removal:
    """What goes of one folder: paths inside it (empty for all of it), their size in bytes, and why."""

    folder: str
    """Its name in the sweep's folder; "" for that itself."""
    paths: tuple[str, ...]
    size: int
    why: str


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be, and what stays although it might have gone, in words."""

    removals: tuple[Removal, ...]
    notes: tuple[str, ...]
    dry_run: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(removal.size for removal in self.removals)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; sizes in bytes."""
        rows = [
            {"folder": one.folder, "bytes": one.size, "why": one.why, "paths": list(one.paths)} for one in self.removals
        ]
        return {"dry_run": self.dry_run, "bytes": self.size, "removed": rows, "notes": list(self.notes)}


def prune(sweep: Sweep, keep: str | None = None, *, dry_run: bool = False) -> Pruned:
    """Removes what nothing needs: of finished trials the checkpoints and networks that `keep` does not name; what
    `rerun --from-scratch` put aside; files that were being written when their writer died.

    Never the newest checkpoint of a trial, nothing of a trial that is not finished, and no network that an evaluation
    of the sweep has still to measure.

    Args:
        sweep: whose folder is looked through.
        keep: as `training.keep`, in its place.
        dry_run: only look.

    Raises:
        UserError: a driver runs the sweep, nothing was submitted, or `keep` cannot be read.
    """
    if keep is not None and keep not in {"last", "best", "all"} and every_of(keep) is None:
        raise UserError(f"--keep '{keep}': expected last, best, all, or 'every K', such as 'every 10'")
    root = Folder(sweep.storage) / sweep.name
    if not root.names():
        raise UserError(f"nothing is there of sweep '{sweep.name}' in {sweep.storage}")
    if dry_run:
        if has_driver(sweep):
            raise UserError(f"sweep '{sweep.name}' is being run; wait for it, or stop it first")
        return _looked_through(root, sweep, keep, dry_run=True)
    with driver_lock(sweep):
        root.finish_moves()
        return _looked_through(root, sweep, keep, dry_run=False)


def _looked_through(root: Folder, sweep: Sweep, keep: str | None, *, dry_run: bool) -> Pruned:
    """All that may go, folder by folder, removed unless it is a dry run."""
    look = _Look(sweep, keep)
    removals: list[Removal] = []
    names = root.names()
    if own := tuple(name for name in names if retention.is_left_over(name)):
        sizes = root.files()
        removals.append(Removal("", own, sum(sizes[name] for name in own), LEFT_OVER))
        if not dry_run:
            _remove(root, removals[0])
    for name in names:
        folder = root / name
        try:
            # a worker that outlived its driver may still be at it
            with contextlib.nullcontext() if dry_run or not look.is_network(folder, name) else folder.lock(0):
                found = look.removals(folder, name)
                for removal in found if not dry_run else ():
                    _remove(root, removal)
        except StorageError as error:
            look.notes.append(f"{name} is left as it is: {error}")
            continue
        removals += found
    return Pruned(tuple(removals), tuple(look.notes), dry_run)


def _remove(root: Folder, removal: Removal) -> None:
    if not removal.paths:
        root.delete(removal.folder)
    for path in removal.paths:
        (root / removal.folder if removal.folder else root).delete(path)


class _Look:
    """What may go of one folder after another.

    Args:
        sweep: whose folders they are.
        keep: as `training.keep`, in the place of each trial's own; None for those.
    """

    def __init__(self, sweep: Sweep, keep: str | None) -> None:
        self._keep = keep
        self._cells = {trial.trial_id: trial for trial in sweep.trials()}
        self._teachers = {trial.trial_id: trial for trial in sweep.teachers()}
        self._evaluations = list(recorded(sweep).values())
        self.notes: list[str] = []

    def is_network(self, folder: Folder, name: str) -> bool:
        """Whether it is a trial's, or that of a network from elsewhere, and was not put aside."""
        if _ASIDE.fullmatch(name):
            return False
        return folder.exists(layout.TRIAL) or folder.exists(layout.EXTERNAL)

    def removals(self, folder: Folder, name: str) -> list[Removal]:
        """What may go of a folder of that name in the sweep's."""
        if _ASIDE.fullmatch(name):
            return [Removal(name, (), sum(folder.files().values()), "put aside by rerun --from-scratch")]
        if not self.is_network(folder, name):
            return []
        found = retention.Contents.of(folder)
        left_over = tuple(path for path in found.files if retention.is_left_over(path))
        removals = [Removal(name, left_over, sum(found.files[path] for path in left_over), LEFT_OVER)]
        if layout.TRIAL in found.files and (trial := self._trial(folder, name)) is not None:
            paths = self._of_trial(folder, name, trial, found)
            removals.append(Removal(name, paths, sum(found.files[path] for path in paths), trial.label()))
        return [removal for removal in removals if removal.paths]

    def _trial(self, folder: Folder, name: str) -> Trial | None:
        """As the sweep file has it now, or as it was when its cell was in the grid."""
        if known := self._cells.get(name) or self._teachers.get(name):
            return known
        try:
            trial = Trial.model_validate_json(folder.read(layout.TRIAL))
            reason = None if trial.trial_id == name else f"it is that of trial {trial.trial_id}"
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
        if reason:
            self.notes.append(f"{name} is left as it is: {layout.TRIAL} cannot be read: {reason}")
            return None
        return trial

    def _of_trial(self, folder: Folder, name: str, trial: Trial, found: retention.Contents) -> tuple[str, ...]:
        """Paths of checkpoints and networks; none where the trial is not finished."""
        evaluations = [] if name in self._teachers else self._evaluations
        traces = Traces(True, found.epoch, 0, found.results, frozenset(found.snapshots))
        # all that is asked of a teacher is that it is trained
        missing = [] if name in self._teachers else missing_measures(trial, self._evaluations[0], traces)
        if found.epoch < trial.training.epochs or missing:
            return ()
        keep = self._keep or trial.training.keep
        paths = () if keep == "all" else tuple(retention.superfluous(trial, keep, found, evaluations))
        if paths and not retention.newest_is_whole(folder, found):
            self.notes.append(f"{name} is left as it is: its newest checkpoint is damaged")
            return ()
        return paths
