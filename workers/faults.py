"""Fault points: named places where tests let a process die or a write fail, to see that nothing is lost by it.

Off, a point is one look at a global. `FLATSWEEP_FAULTS` names a JSON file with a list of faults, for this process and
those that it starts. Each begins once in all of them together, and is added to the log beside that file.
"""

import errno
import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

VARIABLE = "FLATSWEEP_FAULTS"
LOG = ".log"
"""After the name of the JSON file: one JSON line for each fault that happened."""
_DEATHS = ("kill", "term", "exit")
_ERRNOS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "erofs": errno.EROFS}
SPOILS = ("nan", "inf", "outside")
"""What a point cannot do itself: it says so to its caller."""
ACTIONS = (*_DEATHS, *_ERRNOS, "oom", "clock", "sleep", *SPOILS)


@dataclass(frozen=True)
class Fault:
    """One fault."""

    point: str
    """Pattern of the place's name."""
    action: str
    """`kill` (SIGKILL) or `term` (SIGTERM) to this process; `exit` without a word; `enospc`, `eio` or `erofs`, an
    OSError as of a full, a broken or a read-only disk; `oom`, torch's error of a full GPU; `clock`, this process's
    `time.time` jumps; `sleep`; one of `SPOILS`."""
    of: str = "*"
    """Pattern of what the place is about, such as a file's path; others do not count."""
    hit: int = 1
    """Which time, from 1, that the process reaches it."""
    seconds: float = 0.0
    """Of `sleep`; of the jump of `clock`; before `kill`, `term` and `exit`, while the process goes on; how long every
    process then has the OSError at such places."""
    share: float = 0.0
    """Not at one time, but at this share of all, at random."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault is called '{self.action}'; there are {', '.join(ACTIONS)}")


class _Armed:
    """The faults of a JSON file, in one process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._faults = [Fault(**entry) for entry in json.loads(file.read_text())]
        self._reached = [0] * len(self._faults)
        self._chance = random.Random(f"{file.name} {os.getpid()}")  # noqa: S311
        self._lock = threading.Lock()

    def reach(self, name: str, of: str) -> str:
        spoils = ""
        for number, fault in enumerate(self._faults):
            if not (fnmatchcase(name, fault.point) and fnmatchcase(of, fault.of)):
                continue
            if fault.share:
                due = self._chance.random() < fault.share
            else:
                with self._lock:
                    self._reached[number] += 1
                    due = self._reached[number] == fault.hit
                due = due and self._is_first(number)
            if due:
                spoils = self._strike(number, fault, of) or spoils
            elif fault.seconds and fault.action in _ERRNOS and self._lasts(number, fault):
                raise _error(fault, of)
        return spoils

    def _is_first(self, number: int) -> bool:
        """Whether no other process had this fault."""
        try:
            os.close(os.open(f"{self._file}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def _lasts(self, number: int, fault: Fault) -> bool:
        began = Path(f"{self._file}.{number}")
        return began.exists() and time.clock_gettime(time.CLOCK_REALTIME) - began.stat().st_mtime < fault.seconds

    def _strike(self, number: int, fault: Fault, of: str) -> str:
        if fault.seconds and fault.action in _DEATHS:
            timer = threading.Timer(fault.seconds, self._act, (number, fault, of))
            timer.daemon = True
            timer.start()
            return ""
        return self._act(number, fault, of)

    def _act(self, number: int, fault: Fault, of: str) -> str:
        line = {"fault": number, **asdict(fault), "about": of, "pid": os.getpid(), "time": time.monotonic()}
        with open(f"{self._file}{LOG}", "a") as log:  # noqa: PTH123
            log.write(json.dumps(line) + "\n")
        match fault.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "term":
                os.kill(os.getpid(), signal.SIGTERM)
            case "exit":
                os._exit(1)
            case "sleep":
                time.sleep(fault.seconds)
            case "clock":
                before = time.time
                time.time = lambda: before() + fault.seconds
            case "oom":
                raise sys.modules["torch"].OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case action if action in SPOILS:
                return action
            case _:
                raise _error(fault, of)
        return ""


def _error(fault: Fault, of: str) -> OSError:
    number = _ERRNOS[fault.action]
    return OSError(number, os.strerror(number), of)


_armed: _Armed | None = _Armed(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def arm(file: Path | None) -> None:
    """Puts the faults of another JSON file in the place of all; None: none."""
    global _armed
    _armed = _Armed(file) if file else None


def armed() -> bool:
    """Whether there are faults: then whatever is checked now and then is checked always."""
    return _armed is not None


def point(name: str, of: str = "") -> str:
    """A place where a fault may happen.

    Args:
        name: of the place.
        of: what it is about.

    Returns:
        What the caller is to spoil, one of `SPOILS`; mostly "".

    Raises:
        OSError, torch.OutOfMemoryError: as a fault.
    """
    return _armed.reach(name, of) if _armed is not None else ""


def write(file: BinaryIO, content: bytes, name: str, of: str) -> None:
    """Writes to a file, with a place where half of it is written."""
    if _armed is None:
        file.write(content)
        return
    half = len(content) // 2
    file.write(content[:half])
    file.flush()
    _armed.reach(name, of)
    file.write(content[half:])
