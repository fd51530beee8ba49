"""Where this machine keeps what it makes of a sweep: in the sweep's folder, or in a cache where that is elsewhere.

A client of a cluster may not see the storage at all: neither a folder that is mounted on the nodes only, nor a bucket
that it has no credentials for.
"""

import hashlib
import logging
from pathlib import Path

from orchestrator.spec.places import is_address
from orchestrator.spec.sweep import Sweep
from workers.failures import StorageError
from workers.storage import Folder

logger = logging.getLogger(__name__)


def local_folder(sweep: Sweep) -> Path:
    """A folder of this machine for copies of records, figures, the report and notes; it may not be there yet.

    It is the sweep's own folder where that is a path and there. For a storage elsewhere it lies in the user's cache (on
    Linux ~/.cache/flatsweep, or XDG_CACHE_HOME), where it may be deleted.
    """
    if not is_address(sweep.storage) and Path(sweep.storage).is_dir():
        return Path(sweep.storage) / sweep.name
    from platformdirs import user_cache_path

    place = hashlib.sha256(f"{sweep.storage}/{sweep.name}".encode()).hexdigest()[:12]
    return user_cache_path("flatsweep", appauthor=False) / f"{sweep.name}-{place}"


def stored_folder(sweep: Sweep) -> Folder | None:
    """The sweep's folder in the storage; None where this machine does not see it."""
    if not is_address(sweep.storage) and not Path(sweep.storage).is_dir():
        return None
    folder = Folder(sweep.storage) / sweep.name
    try:
        folder.exists("sweep.json")
    except StorageError as error:
        logger.info("%s is not seen from here: %s", folder, error)
        return None
    return folder


def to_storage(sweep: Sweep, files: list[Path], folder: str) -> None:
    """Puts copies of files of this machine into a folder of the sweep's storage, where they are not there already.

    A machine that does not see the storage keeps them to itself; those of its driver are there.
    """
    if is_address(sweep.storage) and (place := stored_folder(sweep)) is not None:
        for file in files:
            (place / folder).write(file.name, file.read_bytes())
