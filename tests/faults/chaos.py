"""Sweeps in which everything dies, each compared with one that was left alone.

    python tests/faults/chaos.py --seeds 0-199        # these seeds
    python tests/faults/chaos.py --minutes 30         # fresh seeds for so long
    python tests/faults/chaos.py --seeds 0-2 --ray    # `flatsweep submit` itself, on a local Ray of its own

Each seed draws faults (`chaos_faults`), runs a small sweep until nothing is left to run, and looks at what it left
(`chaos_findings`). Exit code 1 where one differs from the undisturbed sweep; its folder then stays.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import chaos_scheduler
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported once, before processes are forked)
import sklearn.datasets  # noqa: F401  (likewise)
import sympy  # noqa: F401  (likewise: torch takes it when it first trains)
from chaos_faults import Outcome, drawn, in_order, outcomes, read_lines, struck, table, write_faults
from chaos_findings import Findings, differences
from chaos_scheduler import (
    EVENTS,
    MODULES,
    TIMEOUT_SECONDS,
    HangError,
    fork,
    note,
    note_modules,
    run_driver,
    wait_for_children,
)
from mlflow import MlflowClient

from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking_place import DATABASE, quiet
from workers.faults import VARIABLE, Fault

MOST_DRIVERS = 25
"""A sweep that is not through after so many submits never will be."""
UNDISTURBED = "undisturbed"
OUTCOMES = "outcomes.jsonl"
ATTACK = {"steps": 2, "step_size": 0.05}
SWEEP: dict[str, Any] = {
    "name": "chaos",
    "data": {"name": "digits", "train_size": 120, "validation_size": 40},
    "model": {"name": "small_preact_resnet", "width": 2},
    "training": {
        "epochs": 3,
        "batch_size": 40,
        "attack": {"eps": 0.15, **ATTACK},
        "schedule": "cosine",
        "early_stopping": {"every": 2, "examples": 40, "attack": ATTACK},
        "keep_every": 2,
    },
    "grid": {"methods": ["at", {"name": "awp", "over": "at", "gamma": 0.02}],
             "regularizers": ["none", [{"name": "label_noise", "rate": 0.3}, "weight_averaging"]], "seeds": [0]},
    "evaluation": {
        "checkpoints": ["last", "best", "kept"],
        "measures": [
            {"name": "robustness", "attack": ATTACK, "train_examples": 40, "test_examples": 40},
            {"name": "average_flatness", "draws": 2, "examples": 20, "attack": ATTACK},
        ],
    },
}  # fmt: skip


def sweep_file(folder: Path) -> SweepFile:
    """The sweep, in a folder of its own."""
    sweep = Sweep.model_validate(SWEEP | {"storage": str(folder / "runs")})
    text = json.dumps(SWEEP, indent=1)
    (folder / "chaos.yaml").write_text(text)
    return SweepFile(sweep, text, folder / "chaos.yaml", read_at_commit="")


def run_sweep(folder: Path, faults_file: Path | None, on_ray: bool) -> list[str]:
    """Submits until nothing is left to run; returns what went wrong."""
    file = sweep_file(folder)
    for number in range(MOST_DRIVERS):
        note(folder, event="driver began", driver=number)
        if on_ray and faults_file:
            code = submit_on_ray(folder, faults_file)
        else:
            code = run_driver(file, folder, faults_file, number)
        note(folder, event="driver ended", driver=number, code=code)
        if code and faults_file is None:
            return [f"exit code {code}"]
        if code == 0:
            wait_for_children(60)
            return []
    return [f"not through after {MOST_DRIVERS} submits"]


def submit_on_ray(folder: Path, faults_file: Path) -> int:
    """`flatsweep submit` as a user calls it; returns its exit code."""
    kept = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "submit", "chaos.yaml"]
    environment = kept | {VARIABLE: str(faults_file)}
    return subprocess.run(command, cwd=folder, env=environment, timeout=TIMEOUT_SECONDS).returncode


def look(folder: Path) -> None:
    """Writes down what the sweep left. In a process of its own: it opens the store."""
    findings = Findings(sweep_file(folder).sweep)
    found = findings.all()
    note_modules(folder)
    (folder / "found.json").write_text(json.dumps({"found": found, "contradictions": findings.contradictions}))


def run_seed(folder: Path, expected: Path | None, faults: list[Fault], on_ray: bool = False) -> int:
    """One sweep from its beginning to its result, in `result.json`."""
    faults_file = folder / "faults.json" if expected else None
    if faults_file:
        write_faults(faults, faults_file)
    started = time.monotonic()
    try:
        problems = run_sweep(folder, faults_file, on_ray)
        seen: dict[str, Any] = {"contradictions": [], "found": None}
        if not problems:
            _in_child(lambda: look(folder))
            seen = json.loads((folder / "found.json").read_text())
        problems += seen["contradictions"]
        if expected is not None and seen["found"]:
            problems += differences(seen["found"], json.loads(expected.read_text())["found"])
    except (HangError, ChildError, OSError, subprocess.TimeoutExpired) as error:
        problems = [f"{type(error).__name__}: {error}"]
    happened = struck(faults_file) if faults_file else []
    events = in_order(happened, read_lines(folder / EVENTS))
    became = outcomes(happened, events)
    problems += [f"{one.what}: more than an epoch was trained again" for one in became if one.epochs > 1]
    result = {
        "problems": problems,
        "seconds": time.monotonic() - started,
        "outcomes": [asdict(one) for one in became],
        "faults": happened,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return 1 if problems else 0


class ChildError(Exception):
    """A process that was to help ended with another code than 0."""


def _in_child(function: Callable[[], None]) -> None:
    def run() -> int:
        function()
        return 0

    _, status = os.waitpid(fork(run), 0)
    if status:
        raise ChildError(f"{os.waitstatus_to_exitcode(status)}: see output.txt")


class Chaos:
    """Many seeds, some side by side.

    Args:
        folder: where each has a folder.
        jobs: how many side by side.
        on_ray: as `flatsweep submit` runs them; the undisturbed one as ever.
    """

    def __init__(self, folder: Path, jobs: int, on_ray: bool = False) -> None:
        self.folder, self._jobs, self._on_ray = folder, jobs, on_ray
        self._running: dict[int, int] = {}
        self.failed: dict[int, list[str]] = {}
        self.outcomes: list[Outcome] = []
        self.done = 0

    def prepare(self) -> None:
        """Runs the undisturbed sweep, and an empty store that all others begin with: making one takes long."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _in_child(lambda: quiet() or MlflowClient(f"sqlite:///{self.folder}/empty.db").search_experiments())
        before = set(sys.modules)
        undisturbed = self._place(UNDISTURBED)
        _in_child(lambda: self._run(undisturbed, None, []))
        found = json.loads((undisturbed / "result.json").read_text())
        if found["problems"]:
            raise SystemExit(f"the undisturbed sweep itself is wrong: {found['problems']}")
        # what processes import as they go is imported once, here
        for name in sorted(set((undisturbed / MODULES).read_text().split()) - before):
            with contextlib.suppress(Exception):  # some are no modules that can be imported by their names
                importlib.import_module(name)
        assert threading.active_count() == 1, "a process that forks must have one thread"

    def run(self, seeds: Iterator[int]) -> None:
        """Runs the seeds and says how each ended; Ctrl-C lets those that run come to their end."""
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        for seed in seeds:
            while len(self._running) >= self._jobs:
                self._wait()
            if stop.is_set():
                break
            place = self._place(f"seed-{seed}")
            expected = self.folder / UNDISTURBED / "found.json"
            self._running[fork(lambda: self._run(place, expected, drawn(seed)) or 0)] = seed  # noqa: B023
        while self._running:
            self._wait()

    def _place(self, name: str) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "runs").mkdir(parents=True)
        shutil.copy(self.folder / "empty.db", place / "runs" / DATABASE)
        return place

    def _run(self, place: Path, expected: Path | None, faults: list[Fault]) -> None:
        os.setpgid(0, 0)  # Ctrl-C is meant for this command alone
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output = os.open(place / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        run_seed(place, expected, faults, self._on_ray)

    def _wait(self) -> None:
        process, _ = os.wait()
        seed = self._running.pop(process)
        place = self.folder / f"seed-{seed}"
        file = place / "result.json"
        result = json.loads(file.read_text()) if file.exists() else {"problems": ["see output.txt"], "outcomes": []}
        self.done += 1
        problems = result["problems"]
        self.outcomes += [Outcome(**one) for one in result["outcomes"]]
        with (self.folder / OUTCOMES).open("a") as lines:
            lines.writelines(json.dumps({"seed": seed} | one) + "\n" for one in result["outcomes"])
        how = "DIFFERS" if problems else "identical"
        print(f"seed {seed}: {len(result['outcomes'])} faults, {result.get('seconds', 0):.1f} s: {how}")
        for problem in problems[:10]:
            print(f"    {problem[:400]}")
        sys.stdout.flush()
        if problems:
            self.failed[seed] = problems
            print(f"    see {place}", flush=True)
        else:
            shutil.rmtree(place)


def _seeds(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _fresh(minutes: float) -> Iterator[int]:
    until = time.monotonic() + 60 * minutes
    first = random.SystemRandom().randrange(10**6, 10**9)
    for seed in count(first):
        if time.monotonic() > until:
            return
        yield seed


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9", help="such as 0-199 or 3,7")
    parser.add_argument("--minutes", type=float, help="fresh seeds for so long instead")
    parser.add_argument("--jobs", type=int, default=2, help="sweeps side by side")
    parser.add_argument("--folder", type=Path, help="stays; a temporary one otherwise")
    parser.add_argument("--ray", action="store_true", help="`flatsweep submit` on a local Ray")
    parser.add_argument("--small", action="store_true", help="two trials instead of four")
    given = parser.parse_args()
    if given.small:
        SWEEP["grid"]["regularizers"] = SWEEP["grid"]["regularizers"][1:]
    chaos_scheduler.one_thread()
    os.environ["GIT_CEILING_DIRECTORIES"] = "/"
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder.absolute(), given.jobs, given.ray)
    chaos.prepare()
    chaos.run(_fresh(given.minutes) if given.minutes else _seeds(given.seeds))
    print()
    print(table(chaos.outcomes))
    print(f"\n{chaos.done} sweeps, {len(chaos.outcomes)} faults, {len(chaos.failed)} sweeps that differ", flush=True)
    if chaos.failed:
        print(f"seeds: {', '.join(map(str, sorted(chaos.failed)))}; their folders are in {folder}")
        return 1
    if not given.folder:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
