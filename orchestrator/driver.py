"""One driver per sweep: a lock that is let go of when its process dies, however it dies."""

import contextlib
import os
import socket
from collections.abc import Iterator

from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep
from workers.failures import StorageError
from workers.leases import LEASE_SECONDS
from workers.storage import Folder

LOCK_FILE = ".driver.lock"
HOLDER_FILE = f"{LOCK_FILE}.holder"
WAIT_SECONDS = 1.0
"""Longer than `has_driver` may hold the lock of a local folder to look."""


@contextlib.contextmanager
def driver_lock(sweep: Sweep) -> Iterator[None]:
    """Held while one process drives the sweep.

    In a local folder the system lets go of it when that process dies. On an object store its lease runs out, so this
    waits for as long as a dead driver may seem to hold it, but not for one that is seen to be alive.

    Raises:
        UserError: another process drives it.
    """
    folder = Folder(sweep.storage) / sweep.name
    with contextlib.ExitStack() as held:
        try:
            wait = WAIT_SECONDS if folder.is_local else LEASE_SECONDS + WAIT_SECONDS
            held.enter_context(folder.lock(wait, LOCK_FILE, unless_alive=True))
            folder.write(HOLDER_FILE, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except StorageError as error:
            if not folder.is_locked(LOCK_FILE):
                raise UserError(f"storage: {error}") from error
            who = folder.read(HOLDER_FILE).decode(errors="replace") if folder.exists(HOLDER_FILE) else "another process"
            raise UserError(f"sweep '{sweep.name}' is being run by {who}; wait for it, or stop it first") from error
        except OSError as error:
            raise UserError(f"storage: cannot write in {folder}: {error.strerror or error}") from error
        yield


def has_driver(sweep: Sweep) -> bool:
    """Whether a process drives the sweep at this moment; on an object store, as far as this machine's clock tells."""
    return (Folder(sweep.storage) / sweep.name).is_locked(LOCK_FILE)
