"""Fault points: named places where tests let a process die or a write fail, to see that nothing is lost by it.

Off, a point is one look at a global. `FLATSWEEP_FAULTS` names a JSON file with a list of faults, for this process and
those that it starts. Each happens once in all of them together, and is added to the log beside that file.
"""

import errno
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

VARIABLE = "FLATSWEEP_FAULTS"
LOG = ".log"
"""After the name of the JSON file: one JSON line for each fault that happened."""
ACTIONS = ("kill", "term", "exit", "enospc", "eio", "sleep")
_ERRNOS = {"enospc": errno.ENOSPC, "eio": errno.EIO}


@dataclass(frozen=True)
class Fault:
    """One fault."""

    point: str
    """Name of the place."""
    action: str
    """`kill` (SIGKILL) or `term` (SIGTERM) to this process; `exit` without a word; `enospc` or `eio`, an OSError as of
    a full or a broken disk; `sleep`."""
    of: str = "*"
    """Pattern of what the place is about, such as a file's path; others do not count."""
    hit: int = 1
    """Which time, from 1, that the process reaches it."""
    seconds: float = 0.0
    """Of `sleep`; before `kill`, `term` and `exit`, while the process goes on."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault is called '{self.action}'; there are {', '.join(ACTIONS)}")


class _Armed:
    """The faults of a JSON file, in one process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._faults = [Fault(**entry) for entry in json.loads(file.read_text())]
        self._reached = [0] * len(self._faults)
        self._lock = threading.Lock()

    def reach(self, name: str, of: str) -> None:
        for number, fault in enumerate(self._faults):
            if fault.point == name and fnmatchcase(of, fault.of):
                with self._lock:
                    self._reached[number] += 1
                    due = self._reached[number] == fault.hit
                if due and self._is_first(number):
                    self._strike(number, fault, of)

    def _is_first(self, number: int) -> bool:
        """Whether no other process had this fault."""
        try:
            os.close(os.open(f"{self._file}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def _strike(self, number: int, fault: Fault, of: str) -> None:
        if fault.seconds and fault.action in {"kill", "term", "exit"}:
            timer = threading.Timer(fault.seconds, self._act, (number, fault, of))
            timer.daemon = True
            timer.start()
        else:
            self._act(number, fault, of)

    def _act(self, number: int, fault: Fault, of: str) -> None:
        line = {"fault": number, **asdict(fault), "about": of, "pid": os.getpid(), "time": time.time()}
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
            case _:
                number = _ERRNOS[fault.action]
                raise OSError(number, os.strerror(number), of)


_armed: _Armed | None = _Armed(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def arm(file: Path | None) -> None:
    """Puts the faults of another JSON file in the place of all; None: none."""
    global _armed
    _armed = _Armed(file) if file else None


def point(name: str, of: str = "") -> None:
    """A place where a fault may happen.

    Args:
        name: of the place.
        of: what it is about.

    Raises:
        OSError: as a fault.
    """
    if _armed is not None:
        _armed.reach(name, of)


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
