"""A check in a process of its own: whatever hangs, hangs there, and is killed when its time is over."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from orchestrator.doctor.finding import Finding, Level, Question

KILL_SECONDS = 5.0
"""How long a killed process may take to go: one that waits for a dead network drive does not go at all."""
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""For the checks alone: a sweep waits longer."""
_OPEN: "set[subprocess.Popen[str]]" = set()


@dataclass(frozen=True)
class Check:
    """One kind of check.

    name: what people call it. module: of `orchestrator.doctor`. seconds: it may take.
    """

    name: str
    module: str
    seconds: float


def ask(check: Check, question: Question) -> list[Finding]:
    """What a check finds; that it did not answer in time, or broke, is a problem too."""
    words = [sys.executable, "-m", "orchestrator.doctor.child", check.module]
    process = subprocess.Popen(  # noqa: S603
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
    )
    _OPEN.add(process)
    try:
        out, err = process.communicate(question.packed(), timeout=check.seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        what = f"no answer within {check.seconds:g} s"
        return [Finding(check.name, Level.PROBLEM, what, "look whether what it asks is up: see the other lines")]
    finally:
        _OPEN.discard(process)
    if process.returncode:
        last = next((line for line in reversed(err.splitlines()) if line.strip()), "it said nothing")
        what = f"the check ended with code {process.returncode}: {last[:300]}"
        return [Finding(check.name, Level.PROBLEM, what, "mend what it says, or report it as a fault of flatsweep")]
    return [Finding.of(found) for found in json.loads(out)]


def stop_all() -> None:
    """Kills what other threads wait for: Ctrl-C reaches neither them nor processes of a session of their own."""
    for process in list(_OPEN):
        _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    """With all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(KILL_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return
