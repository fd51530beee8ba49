"""Which of a trained trial's checkpoints and networks nothing needs any more. Imports no torch."""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.spec.sweep import Evaluation, Trial
from orchestrator.spec.training import every_of
from workers import layout
from workers.failures import StorageError
from workers.storage import PART, Folder

logger = logging.getLogger(__name__)

_LEFT_OVER = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(PART)}")


@dataclass(frozen=True)
class Contents:
    """A trial's folder by the names in it: its files with their sizes in bytes, and its best epoch."""

    files: Mapping[str, int]
    best: int | None = None

    @classmethod
    def of(cls, folder: Folder) -> "Contents":
        """Looks into a folder.

        Raises:
            StorageError: the note of its best epoch is damaged.
        """
        files, selection = folder.files(), f"{layout.CHECKPOINTS}/{layout.SNAPSHOTS}/{layout.SELECTION}"
        try:
            return cls(files, layout.best_epoch(folder.read(selection)) if selection in files else None)
        except ValueError as error:
            raise StorageError(f"{folder}/{selection} is damaged: {error}") from error

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoints, newest first."""
        return sorted(filter(layout.parse_checkpoint, self._inside(layout.CHECKPOINTS)), reverse=True)

    @property
    def snapshots(self) -> dict[int, str]:
        """Names of the networks of single epochs, by epoch."""
        names = self._inside(f"{layout.CHECKPOINTS}/{layout.SNAPSHOTS}")
        return {found[0]: name for name in names if (found := layout.parse_snapshot(name))}

    @property
    def results(self) -> frozenset[str]:
        """Names of the results of measures."""
        return frozenset(self._inside(layout.MEASURES))

    @property
    def epoch(self) -> int:
        """Whole epochs in the newest checkpoint."""
        return max((found[0] for found in map(layout.parse_checkpoint, self.checkpoints) if found), default=0)

    def _inside(self, folder: str) -> list[str]:
        ahead = f"{folder}/"
        inside = (path.removeprefix(ahead) for path in self.files if path.startswith(ahead))
        return [name for name in inside if "/" not in name]


def is_left_over(path: str) -> bool:
    """Whether a file was being written when its writer died."""
    return _LEFT_OVER.fullmatch(path.rsplit("/", 1)[-1]) is not None


def superfluous(trial: Trial, keep: str | None, found: Contents, evaluations: Iterable[Evaluation]) -> list[str]:
    """Paths inside a trained trial's folder of checkpoints and networks that may go.

    The newest checkpoint always stays; so does every network that an evaluation still has to measure.

    Args:
        trial: trained to its end.
        keep: as `training.keep`; None: what early stopping and `training.keep_every` name.
        found: what its folder holds.
        evaluations: whose results are wanted.
    """
    needed = {epoch for evaluation in evaluations for epoch in _unmeasured(trial, evaluation, found)}
    paths = [f"{layout.CHECKPOINTS}/{name}" for name in found.checkpoints[1:]]
    for epoch, name in sorted(found.snapshots.items()):
        is_best = epoch == found.best and keep != "last"
        if not (epoch in needed or is_best or _stays(epoch, trial, keep)):
            paths.append(f"{layout.CHECKPOINTS}/{layout.SNAPSHOTS}/{name}")
    return paths


def _stays(epoch: int, trial: Trial, keep: str | None) -> bool:
    if keep is None:
        return epoch in trial.training.kept_epochs
    every = every_of(keep)
    return every is not None and epoch % every == 0


def _unmeasured(trial: Trial, evaluation: Evaluation, found: Contents) -> set[int]:
    """Epochs before the last one whose networks lack a result."""
    epochs = set()
    for network in layout.networks(trial, evaluation, found.snapshots):
        epoch = found.best if network == layout.BEST else None if network == layout.LAST else layout.kept_epoch(network)
        names = (layout.result_name(measure, evaluation.seed, network) for measure in evaluation.measures)
        if epoch is not None and not found.results.issuperset(names):
            epochs.add(epoch)
    return epochs


def newest_is_whole(folder: Folder, found: Contents) -> bool:
    """Whether the newest checkpoint has the hash in its name: only then may those before it go."""
    if not found.checkpoints:
        return False
    name = found.checkpoints[0]
    parsed = layout.parse_checkpoint(name)
    content = (folder / layout.CHECKPOINTS).read(name)
    return parsed is not None and hashlib.sha256(content).hexdigest()[: layout.HASH_DIGITS] == parsed[2]


def apply(trial: Trial, evaluation: Evaluation | None, folder: Folder) -> None:
    """Removes what `training.keep` does not name, at the end of a trial; nothing where it is left out.

    Args:
        trial: trained to its end.
        evaluation: what was measured; None where nothing is to be.
        folder: the trial's own, held by the caller.
    """
    if trial.training.keep in {None, "all"}:
        return
    found = Contents.of(folder)
    paths = superfluous(trial, trial.training.keep, found, [evaluation] if evaluation else [])
    if paths and not newest_is_whole(folder, found):
        logger.warning("nothing is removed from %s: its newest checkpoint is damaged", folder)
        return
    folder.delete_files(paths)
