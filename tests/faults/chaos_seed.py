"""One sweep of the runner, from its beginning to its result."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos_acts import BETWEEN, GROWN, PREEMPTED, TRIAL_REMOVED
from chaos_drivers import Drivers, note_act
from chaos_faults import Drawn, write_faults
from chaos_findings import Findings, differences
from chaos_outcomes import in_order, outcomes, repeated_too_much, struck, wrong_failures
from chaos_place import DATA, Place
from chaos_processes import (
    EVENTS,
    ChildError,
    HangError,
    in_child,
    note,
    note_modules,
    read_lines,
    wait_for_children,
)
from chaos_scheduler import FAILED, MISUSED
from chaos_server import CLIENT, Server

from workers.faults import LOG, VARIABLE

MOST_DRIVERS = 40
"""A sweep that is not through after so many submits never will be."""
WAIT_SECONDS = 0.5
"""Before another submit where the store or the storage was out of reach."""
RAY_SECONDS = 900.0
RESULT, FOUND = "result.json", "found.json"


class Seed:
    """One sweep from its beginning to its result.

    Args:
        folder: its own.
        expected: what an undisturbed sweep left; None: this is the one.
        what: is to happen to it.
        on_ray: as `flatsweep submit` runs it.
    """

    def __init__(self, folder: Path, expected: Path | None, what: Drawn, on_ray: bool) -> None:
        self._folder, self._expected, self._on_ray = folder, expected, on_ray
        self._place = Place(folder, small=any(act.what == GROWN for act in what.acts))
        self._faults_file = folder / "faults.json" if expected else None
        self._between = [act for act in what.acts if act.what in BETWEEN and not on_ray]
        during = [act for act in what.acts if act.what not in BETWEEN]
        self._drivers = Drivers(self._place, self._faults_file, during)
        self._most = MOST_DRIVERS * (5 if any(act.what == PREEMPTED for act in during) else 1)
        self._server = what.server
        self._place.file()
        if self._faults_file:
            write_faults(what.faults, self._faults_file)

    def run(self) -> None:
        """Leaves `RESULT`."""
        started = time.monotonic()
        try:
            problems = self._submit_until_through() or self._compare()
        except (HangError, ChildError, OSError, subprocess.TimeoutExpired) as error:
            traceback.print_exc()
            problems = [f"{type(error).__name__}: {error}"]
        happened = struck(self._faults_file) if self._faults_file else []
        events = in_order(happened, read_lines(self._folder / EVENTS))
        problems += repeated_too_much(happened, events) + wrong_failures(happened, events)
        result = {
            "problems": problems,
            "seconds": time.monotonic() - started,
            "outcomes": [asdict(one) for one in outcomes(happened, events)],
            "faults": happened,
        }
        (self._folder / RESULT).write_text(json.dumps(result, indent=1))

    def _submit_until_through(self) -> list[str]:
        """Returns what went wrong."""
        if self._server is not None and not self._on_ray:
            shutil.copy(self._folder / "empty.db", self._folder / "server.db")
            server = Server(self._folder, self._server, Path(f"{self._faults_file}{LOG}"))
            server.start()
            self._place.uri = server.uri
            os.environ |= CLIENT | {"MLFLOW_TRACKING_URI": server.uri}
        code = 1
        for number in range(self._most):
            note(self._folder, event="driver began", driver=number)
            code = self._driver(number, rerun=code == FAILED)
            note(self._folder, event="driver ended", driver=number, code=code)
            if code and self._faults_file is None:
                return [f"exit code {code}"]
            self._put_data_back()
            if code == MISUSED:
                time.sleep(WAIT_SECONDS)
            if code == 0 and not self._place.small:
                wait_for_children(60)
                return []
            self._act_between(number + 1)
        return [f"not through after {self._most} submits"]

    def _driver(self, number: int, rerun: bool) -> int:
        if self._on_ray and self._faults_file:
            return submit_on_ray(self._folder, self._faults_file)
        return self._drivers.run(number, rerun)

    def _act_between(self, number: int) -> None:
        """Does what is due before the driver of that number, if there is something to do it to."""
        for act in [act for act in self._between if act.driver <= number]:
            wait_for_children(60)  # nobody does that while workers of a dead driver are still dying
            if about := BETWEEN[act.what](self._place, random.Random(act.chance)):
                self._between.remove(act)
                note_act(Path(f"{self._faults_file}{LOG}"), act.what, about=about)

    def _put_data_back(self) -> None:
        if (self._folder / DATA).read_bytes() != (self._folder.parent / DATA).read_bytes():
            shutil.copy(self._folder.parent / DATA, self._folder / DATA)

    def _compare(self) -> list[str]:
        """Looks at what the sweep left, in a process of its own: it opens the store."""
        happened = {fault["of"] for fault in struck(self._faults_file)} if self._faults_file else set()

        def look() -> None:
            findings = Findings(self._place.file().sweep, timed_twice=TRIAL_REMOVED in happened)
            found = findings.all()
            note_modules(self._folder)
            seen = {"found": found, "contradictions": findings.contradictions}
            (self._folder / FOUND).write_text(json.dumps(seen))

        in_child(look)
        seen: dict[str, Any] = json.loads((self._folder / FOUND).read_text())
        expected = json.loads(self._expected.read_text()) if self._expected else seen
        return [*seen["contradictions"], *differences(seen["found"], expected["found"])]


def submit_on_ray(folder: Path, faults_file: Path) -> int:
    """`flatsweep submit` as a user calls it; returns its exit code."""
    kept = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "submit", "chaos.yaml"]
    environment = kept | {VARIABLE: str(faults_file)}
    return subprocess.run(command, cwd=folder, env=environment, timeout=RAY_SECONDS).returncode
