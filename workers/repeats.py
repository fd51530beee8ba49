"""How much training was done twice, as what a worker had done since its last checkpoint died with it.

A worker jots down how far it is; the next attempt compares that with the checkpoint that it goes on from. Imports no
torch.
"""

import contextlib
import time
from collections.abc import Generator, Iterator
from typing import Protocol, TypeVar

from workers.failures import StorageError
from workers.journal import Journal
from workers.sealed import sealed, unsealed
from workers.storage import Folder

FILE = "progress.json"
"""In the trial's folder, until it is trained."""
COST = "cost/repeated_seconds"
LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 15.0
"""Between two notes, in a local folder and on an object store: so much of a loss may not be counted."""
_T = TypeVar("_T")


class Standing(Protocol):
    """How far training is."""

    epoch: int
    """Whole epochs."""
    seconds: float
    """Of the running one that are done."""


class Repeats:
    """Counts for one attempt what it repeats, and notes how far it comes.

    Args:
        folder: the trial's.
        training: as it was restored.
        journal: of the trial.
    """

    def __init__(self, folder: Folder, training: Standing, journal: Journal) -> None:
        self._folder, self._training = folder, training
        self.seconds = 0.0
        """Of training that were, or are to be, done once more, in this attempt and those before."""
        if folder.exists(FILE):
            with contextlib.suppress(ValueError):  # cut short by a crash of the machine: nothing is known
                said = _read(folder)
                recorded = {r.step: r.value for r in journal.records if r.key == "train/seconds"}
                epochs = range(training.epoch + 1, said["epoch"] + 1)
                lost = sum(recorded.get(epoch, 0.0) for epoch in epochs) - training.seconds
                lost += said["seconds"] if said["epoch"] >= training.epoch else 0.0
                self.seconds = said["repeated"] + max(0.0, lost)

    def watched(self, steps: Generator[_T, None, object]) -> Iterator[_T]:
        """The steps of training, with a note now and then; closing it closes them."""
        every = LOCAL_SECONDS if self._folder.is_local else REMOTE_SECONDS
        self._note()
        noted = time.monotonic()
        try:
            for step in steps:
                if time.monotonic() - noted >= every:
                    self._note()
                    noted = time.monotonic()
                yield step
        finally:
            steps.close()
            with contextlib.suppress(OSError, StorageError):  # training ends for another reason
                self._note()

    def end(self) -> None:
        """What was repeated is recorded: no note is needed any more."""
        self._folder.delete(FILE)

    def _note(self) -> None:
        content = {"epoch": self._training.epoch, "seconds": self._training.seconds, "repeated": self.seconds}
        self._folder.jot(FILE, sealed(content))


def repeated_so_far(folder: Folder) -> float:
    """Seconds that a trial which is not trained yet has repeated, as far as its storage says."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return float(_read(folder)["repeated"])
    return 0.0


def _read(folder: Folder) -> dict[str, float]:
    """Raises ValueError where the note is damaged."""
    return unsealed(folder.read(FILE), epoch=int, seconds=(int, float), repeated=(int, float))
