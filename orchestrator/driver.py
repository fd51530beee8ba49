"""One driver per sweep: a lock that the system lets go of when its process dies, however it dies."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep

LOCK_FILE = ".driver.lock"
WAIT_SECONDS = 1.0
"""Longer than `has_driver` may hold the lock to look."""


@contextlib.contextmanager
def driver_lock(sweep: Sweep) -> Iterator[None]:
    """Held while one process drives the sweep; the system lets go of it when the process dies, however it dies.

    Raises:
        UserError: another process drives it.
    """
    folder = Path(sweep.storage) / sweep.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK_FILE, timeout=WAIT_SECONDS)
        lock.acquire()
    except filelock.Timeout as error:
        holder = folder / f"{LOCK_FILE}.holder"
        who = holder.read_text() if holder.exists() else "another process"
        raise UserError(f"sweep '{sweep.name}' is being run by {who}; wait for it, or stop it first") from error
    except OSError as error:
        raise UserError(f"storage: cannot write in {folder}: {error.strerror}") from error
    try:
        (folder / f"{LOCK_FILE}.holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def has_driver(sweep: Sweep) -> bool:
    """Whether a process drives the sweep at this moment."""
    path = Path(sweep.storage) / sweep.name / LOCK_FILE
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True
