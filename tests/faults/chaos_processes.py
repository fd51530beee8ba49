"""Processes that are forked, and what they note."""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

EVENTS = "events.jsonl"
"""What happened when: where each trial stood, and when drivers began and ended."""
MODULES = "modules.txt"
"""Names of modules that were imported in its processes."""


class HangError(Exception):
    """A process did not end in time."""


class ChildError(Exception):
    """A process that was to help ended with another code than 0."""


def note(folder: Path, **event: Any) -> None:
    """Adds an event, with the time and this process, to those of a folder."""
    line = json.dumps(event | {"time": time.monotonic(), "pid": os.getpid()}) + "\n"
    with (folder / EVENTS).open("a") as file:
        file.write(line)


def note_modules(folder: Path) -> None:
    """Adds the names of the modules that this process has imported."""
    with (folder / MODULES).open("a") as file:
        file.write(" ".join([*sys.modules, ""]))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON lines; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def fork(function: Callable[[], int]) -> int:
    """Runs a function in a new process, which ends with the code that it returns; returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process_id = os.fork()
    if process_id:
        return process_id
    code = 1
    try:
        code = function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def in_child(function: Callable[[], object]) -> None:
    """Runs a function in a new process and waits for its end.

    Raises:
        ChildError: it failed.
    """

    def run() -> int:
        function()
        return 0

    _, status = os.waitpid(fork(run), 0)
    if status:
        raise ChildError(f"{os.waitstatus_to_exitcode(status)}: see output.txt")


def end(processes: Iterable[int]) -> None:
    """Kills processes, those that are still there."""
    for one in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def collect(processes: Iterable[int]) -> None:
    """Collects those of the children that are dead."""
    for one in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(one, os.WNOHANG)


def wait_for_children(seconds: float) -> None:
    """Waits until every child of this process is dead.

    Raises:
        HangError: one is not.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not found:
            time.sleep(0.02)
    raise HangError(f"a worker did not end within {seconds:g} s of its driver")


def one_thread() -> None:
    """Before anything is computed: a process that has started threads to compute in must not fork."""
    torch.set_num_threads(1)
