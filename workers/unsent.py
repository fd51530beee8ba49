"""What of a trial waits for the tracking store: a note in the sweep's folder, there only while something waits.

The notes of all trials lie in one folder, so that one listing tells which trials wait. Imports no torch.
"""

import contextlib
import logging
from dataclasses import asdict, dataclass
from pathlib import PurePath

from workers.failures import StorageError
from workers.sealed import sealed, unsealed
from workers.storage import Folder

logger = logging.getLogger(__name__)

FOLDER = "unsent"
_SUFFIX = ".json"
MAX_REASON = 300


@dataclass(frozen=True)
class Unsent:
    """What waits."""

    records: int
    """Of the journal, that the store has not taken."""
    since_ms: int
    """Since when the oldest of them waits, in ms since 1970."""
    reason: str
    """What the last attempt to send ended with; "" where none has ended yet."""

    def seconds(self, now_ms: int) -> float:
        """For how long; 0 where clocks disagree."""
        return max(0.0, (now_ms - self.since_ms) / 1000)


def plain_reason(error: BaseException) -> str:
    """An exception in one line."""
    return (str(error).splitlines() or [""])[0][:MAX_REASON] or type(error).__name__


def note(trial_folder: Folder, unsent: Unsent | None) -> None:
    """Notes what of a trial waits, or that nothing does any more. A storage that fails is left to the trial itself."""
    place, name = trial_folder.parent / FOLDER, _name(trial_folder)
    try:
        if unsent is None:
            place.delete(name)
        else:
            place.write(name, sealed(asdict(unsent)))
    except (OSError, StorageError) as error:
        logger.warning("cannot note in %s what waits to be sent: %s", place, error)


def noted(sweep_folder: Folder) -> dict[str, Unsent]:
    """By trial id what waits of a sweep; a note that is damaged or being written is left out."""
    place = sweep_folder / FOLDER
    found = {}
    for name in place.names():
        if name.endswith(_SUFFIX) and not name.startswith("."):
            with contextlib.suppress(FileNotFoundError, ValueError):  # sent meanwhile; damaged
                said = unsealed(place.read(name), records=int, since_ms=int, reason=str)
                found[name.removesuffix(_SUFFIX)] = Unsent(said["records"], said["since_ms"], said["reason"])
    return found


def _name(trial_folder: Folder) -> str:
    return PurePath(trial_folder.url).name + _SUFFIX
