"""What Ray Tune does for a sweep, in forked processes that start within a moment: the workers run the same actor.

The driver is `orchestrator.submit` as it is, but for its `launch`, which asks `chaos_drivers` for workers. A worker
dies with its driver, a little later.
"""

import contextlib
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, partialmethod
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from chaos_processes import note, note_modules
from rich.console import Console

import orchestrator.submit
from orchestrator import sink, trainable
from orchestrator.addresses import without_secret
from orchestrator.errors import UserError
from orchestrator.launch import Outcome, _Stop, _with_teacher, stages
from orchestrator.limits import Budget
from orchestrator.plan import Action, Entry, Plan
from orchestrator.rounds import run_in_rounds
from orchestrator.spec.loading import SweepFile
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from workers import assigned, faults, recorder, training
from workers.training import Progress

SLOTS = 2
"""Trials side by side."""
LINGER_SECONDS = 0.5
"""How long a worker may outlive its driver at most."""
FAILED, REFUSED, MISUSED = 3, 4, 2
"""Exit codes of a driver: trials failed, another driver is at work, another mistake of a user or store out of reach."""


# the driver


def drive(file: SweepFile, folder: Path, forker: socket.socket, faults_file: Path | None, rerun: bool) -> int:
    """One submit, or one rerun of what has failed, in this process; returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults.arm(faults_file)
    orchestrator.submit.launch = partial(_launch, forker)
    prepare = orchestrator.submit.rerun_failed(frozenset(), None, False) if rerun else None
    try:
        done = orchestrator.submit.submit(file, Console(width=200), prepare=prepare)
    except UserError as error:
        print(f"error: {error}")
        return REFUSED if "is being run by" in str(error) else MISUSED
    left = [entry for entry in (*done.after.teachers, *done.after.entries) if entry.action != "done"]
    for entry in left:
        print(f"left: {entry.trial_id} {entry.action}: {entry.reason}")
    failed = [entry for entry in left if entry.action is Action.FAILED]
    for entry in failed:
        note(folder, event="failed", trial_id=entry.trial_id, error_class=entry.run.error_class if entry.run else "")
    return FAILED if failed else 1 if left or rerun else 0


class _AlwaysOurTurn:
    lost_to = None

    def contested_by(self) -> None:
        return None


def _launch(
    forker: socket.socket,
    plan: Plan,
    record: Callable[[], Mapping[str, str]],
    console: Console,
    address: str | None,
    store: Store,
    limits: Any = None,
) -> Outcome:
    """As `orchestrator.launch.launch`, without Ray."""
    entries = plan.to_launch()
    lost, left = set[str](), list[Entry]()
    with _Stop(console, Budget(None)) as stop:
        run_ids = record()

        def run(ready: Sequence[Entry]) -> list[_Result]:
            return _Round(forker, ready, plan, run_ids, stop).run()

        for stage in stages(entries):
            ready = _with_teacher(stage, plan.sweep, console)
            more, still = run_in_rounds(ready, run, _AlwaysOurTurn(), stop, console)  # type: ignore[arg-type]
            lost |= more
            left += still
    return Outcome(stop.by if left else None, frozenset(lost))


@dataclass
class _Result:
    """As Ray Tune's of a trial."""

    error: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


class _Round:
    """Runs trials on warm workers; one that fails in passing, or whose worker died, goes on in a new worker."""

    def __init__(
        self, forker: socket.socket, entries: Sequence[Entry], plan: Plan, run_ids: Mapping[str, str], stop: _Stop
    ) -> None:
        self._forker, self._entries, self._plan, self._run_ids, self._stop = forker, entries, plan, run_ids, stop
        self._results = [_Result() for _ in entries]
        self._failures = [0] * len(entries)
        self._waiting = deque(range(len(entries)))
        self._busy: dict[Connection, int] = {}
        self._idle: list[Connection] = []

    def run(self) -> list[_Result]:
        said_stop = False
        while self._busy or (self._waiting and not self._stop.requested):
            while self._waiting and len(self._busy) < SLOTS and not self._stop.requested:
                self._begin(self._waiting.popleft())
            if self._stop.requested and not said_stop:
                said_stop = True
                for worker in list(self._busy):
                    self._tell(worker, ("stop", None))
            for worker in wait(list(self._busy), timeout=0.05):
                self._hear(worker)  # type: ignore[arg-type]
        for worker in self._idle:
            self._tell(worker, ("end", None))
            worker.close()
        return self._results

    def _begin(self, index: int) -> None:
        worker = self._idle.pop() if self._idle else self._new_worker()
        self._busy[worker] = index
        self._tell(worker, ("begin", self._assignment(self._entries[index])))

    def _new_worker(self) -> Connection:
        here, there = socket.socketpair()
        socket.send_fds(self._forker, [b"w"], [there.fileno()])
        there.close()
        return Connection(here.detach())

    def _tell(self, worker: Connection, what: tuple[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is dead: so `_hear` will hear
            worker.send(what)

    def _hear(self, worker: Connection) -> None:
        index = self._busy[worker]
        try:
            said = worker.recv()
        except (EOFError, OSError):
            said = {"raised": "its worker died"}
        if "raised" in said:
            del self._busy[worker]
            worker.close()
            self._failures[index] += 1
            if self._failures[index] > self._plan.sweep.resources.max_retries:
                self._results[index].error = said["raised"]
            elif not self._stop.requested:
                self._waiting.appendleft(index)
            return
        self._results[index].metrics = said
        if said["done"]:
            self._idle.append(worker)
            del self._busy[worker]
            faults.point("driver/trial-end", self._entries[index].trial_id)
        elif said["state"] == "stopped":
            self._idle.append(worker)
            del self._busy[worker]
        elif not self._stop.requested:
            self._tell(worker, ("step", None))

    def _assignment(self, entry: Entry) -> trainable.Assignment:
        sweep = self._plan.sweep
        return trainable.Assignment(
            trial=entry.trial.model_dump_json(),
            evaluation="" if entry.is_teacher else sweep.evaluation.model_dump_json(),
            measure_only=self._plan.measure_only,
            folder=f"{sweep.storage}/{sweep.name}/{entry.trial_id}",
            tracking_uri=without_secret(tracking_uri(sweep)),
            run_id=self._run_ids[entry.trial_id],
            trial_id=entry.trial_id,
            cpu=1,
            gpu=0,
        )


# a worker


def serve(folder: Path, faults_file: Path | None, number: int, driver: Connection) -> int:
    """Does what the driver says until it says `end`, as Ray does with an actor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray's workers have it
    faults.arm(faults_file)
    recorder.RETRY_SECONDS = (0.05, 0.2, 1.0)
    trainable.SLICE_SECONDS = 0.2
    threading.Thread(target=_die_with, args=(driver.fileno(),), daemon=True).start()
    assigned.assigned_steps = partial(_noted, assigned.assigned_steps, folder, number)
    sink.RunSink.send = partialmethod(_sent, sink.RunSink.send, folder)
    training.Trainer._seeded_step = partialmethod(_spoilt, training.Trainer._seeded_step)
    actor: trainable.TrialActor | None = None
    while True:
        try:
            what, assignment = driver.recv()
        except EOFError:  # as it let go of this worker, or died: `_die_with` sees to it
            time.sleep(LINGER_SECONDS)
            return 1
        if what == "end":
            note_modules(folder)
            return 0
        try:
            if what == "stop":
                if actor is not None:
                    actor.cleanup()
                driver.send({"done": False, "state": "stopped"})
                continue
            if what == "begin" and actor is None:
                actor = trainable.TrialActor.__new__(trainable.TrialActor)
                actor.setup({"assignment": assignment})
            elif what == "begin" and actor is not None:
                actor.reset_config({"assignment": assignment})
            assert actor is not None
            driver.send(actor.step())
        except Exception as error:
            traceback.print_exc()
            driver.send({"raised": repr(error)})


def _die_with(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is always told
    poll.poll()
    time.sleep(random.random() * LINGER_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _noted(
    original: Callable[..., Generator[Any, None, Any]], folder: Path, number: int, *args: Any, **kwargs: Any
) -> Generator[Any, None, Any]:
    """`assigned_steps`, with a note of every step that it takes."""
    trial = str(args[2]).rsplit("/", 1)[-1]
    attempt = f"{os.getpid()}-{time.time()}"
    note(folder, event="begun", trial=trial, attempt=attempt, driver=number)
    steps = original(*args, **kwargs)
    try:
        while True:
            said = next(steps)
            step = said.epoch * said.batches + said.batch if isinstance(said, Progress) else None
            of_epoch = said.batches if isinstance(said, Progress) else None
            note(folder, event="step", trial=trial, attempt=attempt, driver=number, step=step, of_epoch=of_epoch)
            yield said
    except StopIteration as stop:
        note(folder, event="done", trial=trial, attempt=attempt, driver=number)
        return stop.value
    finally:
        steps.close()


def _sent(self: sink.RunSink, original: Callable[..., None], folder: Path, records: Any) -> None:
    original(self, records)
    note(folder, event="sent")


STEP = "step"
"""The one fault point that is here: before a training step, about the trial's id."""


def _spoilt(self: training.Trainer, original: Callable[..., None], number: int, random: torch.Generator) -> None:
    """A training step with wrong numbers, if they are due."""
    how = faults.point(STEP, self.trial.trial_id)
    attack = self.method.attack
    if how == "nan":
        next(self.model.parameters()).data.view(-1)[0] = torch.nan
    if how == "outside":
        self.method.attack = lambda *given: attack(*given) + 1.5  # type: ignore[method-assign]
    try:
        original(self, number, random)
    finally:
        if how == "outside":
            del self.method.attack
    if how == "inf":
        self.sums[0] = torch.inf
