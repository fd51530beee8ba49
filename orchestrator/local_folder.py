"""Where this machine keeps what it makes of a sweep: in the sweep's folder, or in a cache where that is elsewhere."""

import hashlib
from pathlib import Path

from orchestrator.spec.places import is_address
from orchestrator.spec.sweep import Sweep
from workers.storage import Folder


def local_folder(sweep: Sweep) -> Path:
    """A folder of this machine for copies of records, figures, the report and notes; it may not be there yet.

    It is the sweep's own folder where that is a path. For a storage with an address it lies in the user's cache (on
    Linux ~/.cache/flatsweep, or XDG_CACHE_HOME), where it may be deleted.
    """
    if not is_address(sweep.storage):
        return Path(sweep.storage) / sweep.name
    from platformdirs import user_cache_path

    place = hashlib.sha256(f"{sweep.storage}/{sweep.name}".encode()).hexdigest()[:12]
    return user_cache_path("flatsweep", appauthor=False) / f"{sweep.name}-{place}"


def to_storage(sweep: Sweep, files: list[Path], folder: str) -> None:
    """Puts copies of files of this machine into a folder of the sweep's storage, where they are not there already.

    Raises:
        StorageError: the storage cannot be written.
    """
    if is_address(sweep.storage):
        place = Folder(sweep.storage) / sweep.name / folder
        for file in files:
            place.write(file.name, file.read_bytes())
