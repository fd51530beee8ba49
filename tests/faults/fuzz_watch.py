"""Sees whether a reader writes, starts a process, opens a connection, or takes too long over one input."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
    *("os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "shutil.rmtree", "shutil.move"),
    *("socket.connect", "socket.bind", "tempfile.mkstemp", "tempfile.mkdtemp"),
}
"""Python's own names of what its audit hooks hear of (docs.python.org/3.11/library/audit_events.html)."""


class _Hook:
    """What happened while a watch was on. A hook cannot be taken away again, so there is one, which mostly sleeps."""

    def __init__(self) -> None:
        self.on, self.installed = False, False
        self.heard: list[str] = []

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = (*details, None, None)[:3]
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING)
            if writes and path != os.devnull:
                self.heard.append(f"open {path!r} {mode}")
        elif event in FORBIDDEN:
            self.heard.append(f"{event} {details!r}")


HOOK = _Hook()


class TooSlowError(Exception):
    """One input took longer than it may."""


@contextlib.contextmanager
def watched(folder: Path | None = None, seconds: float = 10.0) -> Iterator[None]:
    """Nothing inside may write, run or connect to anything.

    Args:
        folder: whose listing, sizes and times of change must stay as they are.
        seconds: of this process's own time that it may take; other processes on the machine do not count.

    Raises:
        AssertionError: something did.
        TooSlowError: it took longer.
    """
    if not HOOK.installed:
        sys.addaudithook(HOOK)
        HOOK.installed = True
    before = listing(folder) if folder else None
    HOOK.heard.clear()
    HOOK.on = True
    try:
        with _limited(seconds):
            yield
    finally:
        HOOK.on = False
    assert not HOOK.heard, f"a reader did more than read: {HOOK.heard}"
    assert folder is None or listing(folder) == before, "a reader changed the folder"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change of everything in a folder."""
    found: dict[str, tuple[int, int]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found |= {f"{entry.name}/{name}": about for name, about in listing(Path(entry.path)).items()}
            about = entry.stat(follow_symlinks=False)
            found[entry.name] = about.st_size, about.st_mtime_ns
    return found


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError(f"still at it after {seconds:g} s of this process's time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
