"""Forks drivers, and a worker whenever one asks: from a process that has imported everything and opened nothing."""

import json
import os
import select
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from chaos_acts import SECOND, Act, act_on_drivers
from chaos_place import Place
from chaos_processes import EVENTS, HangError, collect, end, fork, note_modules
from chaos_scheduler import REFUSED, drive, serve
from chaos_server import LOCKED, lock_database, log_line

TIMEOUT_SECONDS = 900.0
"""Of a driver: one that takes longer hangs."""
LOOK_SECONDS = 0.05


@dataclass
class Drivers:
    """The drivers of a sweep that are at work, their workers, and what happens to them meanwhile.

    Args:
        place: the sweep.
        faults_file: of `workers.faults`; None for an undisturbed sweep.
        acts: what is to happen; done ones are removed.
    """

    place: Place
    faults_file: Path | None
    acts: list[Act]
    _sockets: dict[socket.socket, int] = field(default_factory=dict)
    _helpers: list[int] = field(default_factory=list)
    _workers: list[int] = field(default_factory=list)
    _codes: list[int] = field(default_factory=list)

    def run(self, number: int, rerun: bool) -> int:
        """Runs a driver to its end; returns its exit code, negative for a signal.

        Raises:
            HangError: it, or a worker, does not end.
        """
        until = time.monotonic() + TIMEOUT_SECONDS
        self._codes.clear()
        self._workers.clear()
        self._from = self._steps()
        self._start(number, rerun)
        while self._sockets:
            ready, _, _ = select.select(list(self._sockets), [], [], LOOK_SECONDS)
            if time.monotonic() > until:
                end([*self._sockets.values(), *self._workers])
                raise HangError(f"driver {number} did not end within {TIMEOUT_SECONDS:g} s")
            for asks in ready:
                self._hear(asks, number)
            self._act(number)
        collect([*self._workers, *self._helpers])
        codes = [code for code in self._codes if code != REFUSED] or self._codes
        return 0 if 0 in codes else codes[-1]

    def _start(self, number: int, rerun: bool = False) -> None:
        here, there = socket.socketpair()
        file = self.place.file()

        def run() -> int:
            for one in (here, *self._sockets):
                one.close()
            code = drive(file, self.place.folder, there, self.faults_file, rerun)
            note_modules(self.place.folder)
            return code

        self._sockets[here] = fork(run)
        there.close()

    def _hear(self, asks: socket.socket, number: int) -> None:
        """A driver that asks for a worker, or has ended."""
        _, fds, _, _ = socket.recv_fds(asks, 1, 1)
        if fds:
            work = partial(serve, self.place.folder, self.faults_file, number)

            def run() -> int:
                for one in self._sockets:
                    one.close()
                return work(Connection(fds[0]))

            self._workers.append(fork(run))
            os.close(fds[0])
        else:
            _, status = os.waitpid(self._sockets.pop(asks), 0)
            asks.close()
            self._codes.append(os.waitstatus_to_exitcode(status))

    def _steps(self) -> int:
        """What the trials of this sweep have done so far."""
        events = self.place.folder / EVENTS
        return events.read_bytes().count(b'"event": "step"') if events.exists() else 0

    def _act(self, number: int) -> None:
        for act in [act for act in self.acts if act.driver <= number]:
            if not self._sockets or self._steps() - self._from < act.after:
                continue
            if act.repeats:
                self._from = self._steps()
            else:
                self.acts.remove(act)
            self._do(act, number)

    def _do(self, act: Act, number: int) -> None:
        assert self.faults_file is not None
        drivers = list(self._sockets.values())
        log = Path(f"{self.faults_file}.log")
        if act.what == LOCKED:
            self._helpers.append(fork(lambda: lock_database(self.place.database, act.seconds, log)))
            return
        note_act(log, act.what, act.seconds, drivers[0])
        if act.what == SECOND:
            self._start(number)
        else:
            act_on_drivers(act, drivers, self._workers)


def note_act(log: Path, what: str, seconds: float = 0.0, pid: int | None = None, about: str = "*") -> None:
    """Adds something that was done to a sweep, or to one trial, to what happened to it."""
    with log.open("a") as lines:
        lines.write(json.dumps(log_line(what, seconds, pid, about)) + "\n")
