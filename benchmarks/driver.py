"""What a sweep costs its driver, in processor time and memory, over the number of its trials.

    python benchmarks/driver.py [--trials 100 1000 10000] [--ray 100 1000]

The workers do nothing. `--ray` counts are real: Ray Tune hands every trial to a warm actor on the local Ray, which
ends it at once. `--trials` counts are simulated: no Ray is started, and the end of a trial is what Ray Tune calls in
the driver, with results as a worker sends them. Both plan, record the runs in SQLite, show their progress and close the
sweep with flatsweep's own code. Each size is a process of its own; its processor time has the client's threads in it,
not Ray's processes.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from orchestrator import submit as driver
from orchestrator.plan import Entry
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep

END = {"done": True, "state": "finished", "phase": "robustness", "fraction": 1.0}
PHASES = ("plan and start", "record", "run", "close")


class Clock:
    """Seconds of the clock and of this process's threads, phase by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[float, float]] = {}
        self._last = time.perf_counter(), time.process_time()

    def end(self, phase: str) -> None:
        """The phase is over."""
        now = time.perf_counter(), time.process_time()
        self.phases[phase] = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now


class NoTune:
    """In the place of Ray Tune: every trial starts and ends in turn."""

    def __init__(self, entries: Sequence[Entry], view: Any) -> None:
        self._entries, self._view = entries, view

    def fit(self) -> list[Any]:
        """A result for each."""
        for number, entry in enumerate(self._entries):
            self._view.on_trial_start(number, [], entry.trial_id)
            self._view.on_trial_result(number, [], entry.trial_id, dict(END))
        return [SimpleNamespace(error=None, metrics=END) for _ in self._entries]


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """No Ray, and nobody else's sweep."""
    turn = SimpleNamespace(contested_by=lambda: None, is_over=lambda: False, lost_to=None)

    def tuner(entries: Sequence[Entry], *others: Any) -> NoTune:
        return NoTune(entries, others[-2])

    changed = {
        "ray_session": lambda *_: contextlib.nullcontext(),
        "check_fits": lambda *_: None,
        "_tuner": tuner,
        "Turn": lambda *_: turn,
    }
    with patch.multiple("orchestrator.launch", **changed):
        yield


@contextlib.contextmanager
def with_idle_workers() -> Iterator[None]:
    """Ray's actors end each trial at once."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
            return True

        def step(self) -> dict[str, Any]:
            return {"done": True, "state": "finished", "phase": "robustness", "fraction": 1.0}

    with patch("orchestrator.trainable.TrialActor", Nothing):
        yield


def drive(trials: int, real: bool) -> dict[str, Any]:
    """Submits a sweep in this process."""
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place, with_idle_workers() if real else without_ray():
        grid = {"methods": ["at"], "seeds": list(range(trials))}
        made = Sweep.model_validate({"name": "driven", "grid": grid, "storage": place})
        file = SweepFile(made, made.model_dump_json(), Path(place, "x.yaml"))
        clock = Clock()
        with ends_of_phases(clock):
            driver.submit(file, Console(file=io.StringIO()), address="local", started=lambda: clock.end("record"))
        clock.end("close")
    return {"phases": clock.phases, "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


@contextlib.contextmanager
def ends_of_phases(clock: Clock) -> Iterator[None]:
    """Tells the clock where Ray is there and where all trials are through."""
    launch = driver.launch

    def timed_launch(plan: Any, record: Any, *others: Any) -> Any:
        def timed_record() -> Any:
            clock.end("plan and start")
            return record()

        outcome = launch(plan, timed_record, *others)
        clock.end("run")
        return outcome

    with patch.object(driver, "launch", timed_launch):
        yield


def main() -> None:
    """Prints a table, a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--ray", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        print(json.dumps(drive(wanted.one, bool(wanted.ray))))
        return
    table = Table(title="the driver: seconds, of these of its processor; MiB", title_justify="left")
    for heading in ("trials", *PHASES, "ms of processor a trial", "memory, MiB"):
        table.add_column(heading, justify="right")
    sizes = [(count, False) for count in wanted.trials] + [(count, True) for count in wanted.ray]
    for count, real in sizes:
        command = [sys.executable, __file__, "--one", str(count), "--ray", *(["1"] if real else [])]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        phases = {name: told["phases"][name] for name in PHASES}
        own = sum(processor for name, (_, processor) in phases.items() if name != PHASES[0])
        shown = [f"{wall:.1f} ({processor:.1f})" for wall, processor in phases.values()]
        name = f"{count:,}{' on Ray' if real else ''}"
        table.add_row(name, *shown, f"{1000 * own / count:.1f}", f"{told['mebibytes']:.0f}")
    # only now: it imports PyTorch, whose memory would count as that of the processes above
    from compare import machine

    print(machine())
    Console().print(table)
    print(f"load {' / '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
