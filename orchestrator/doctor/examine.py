"""All checks, side by side, and what `--fix` does afterwards."""

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from orchestrator.doctor import orphans
from orchestrator.doctor.finding import Finding, Level, Question
from orchestrator.doctor.probing import Check, ask, stop_all
from orchestrator.errors import UserError
from orchestrator.spec.loading import SweepFile
from orchestrator.tracking_place import tracking_uri

CHECKS = (
    Check("versions", "versions", 60),
    Check("gpu", "gpu", 120),
    Check("ray", "cluster", 150),
    Check("data", "data", 60),
    Check("tracking", "tracking", 120),
    Check("storage", "storage", 60),
    Check("clocks", "clocks", 60),
    Check("orphans", "orphans", 120),
)
"""In the order of the report, with the seconds that each may take."""
AT_ONCE = 2
"""Checks side by side: each imports a lot."""


@dataclass
class Examined:
    """What was found, and what `--fix` did."""

    sweep: str | None
    findings: list[Finding]
    fixed: list[str] = field(default_factory=list)

    @property
    def has_problem(self) -> bool:
        """Whether something does not work."""
        return any(finding.level is Level.PROBLEM for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = [finding.as_dict() for finding in self.findings]
        return {"sweep": self.sweep, "findings": found, "fixed": self.fixed, "has_problem": self.has_problem}


def examine(
    file: SweepFile | None, address: str | None = None, *, fix: bool = False, say: Callable[[str], None] = print
) -> Examined:
    """Makes every check that can be made, each in a process that is killed when its time is over.

    Args:
        file: the sweep; None for what needs none.
        address: of a Ray cluster; RAY_ADDRESS if not given, a local Ray if neither is.
        fix: close runs that nobody works on and remove left scratch.
        say: hears which checks are under way.

    Raises:
        UserError: `fix` without a sweep, or while a driver runs it.
    """
    if fix and file is None:
        raise UserError("--fix mends what a sweep has left: name the sweep")
    address = address or os.environ.get("RAY_ADDRESS")
    question = Question(
        sweep=file.sweep if file else None,
        address=None if address == "local" else address,
        tracking_uri=tracking_uri(file.sweep) if file else os.environ.get("MLFLOW_TRACKING_URI"),
        storage=file.sweep.storage if file else None,
    )
    found = {check.name: findings for check, findings in zip(CHECKS, _answers(question, say), strict=True)}
    done = Examined(file.sweep.name if file else None, [])
    if fix and file is not None:
        say("mending")
        done.fixed = _fixed(file, found)
        found["orphans"] = ask(CHECKS[-1], question)
    done.findings = [finding for findings in found.values() for finding in findings]
    return done


def _answers(question: Question, say: Callable[[str], None]) -> list[list[Finding]]:
    open_checks = [check.name for check in CHECKS]
    scratch = tempfile.mkdtemp(prefix="flatsweep-")
    question = Question(question.sweep, question.address, question.tracking_uri, question.storage, scratch)

    def one(check: Check) -> list[Finding]:
        say(f"checking {', '.join(open_checks)}")
        found = ask(check, question)
        open_checks.remove(check.name)
        return found

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(one, CHECKS))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stop_all()
        shutil.rmtree(scratch, ignore_errors=True)


def _fixed(file: SweepFile, found: dict[str, list[Finding]]) -> list[str]:
    """Only where store and storage answer."""
    for name in ("tracking", "storage", "orphans"):
        for finding in found[name]:
            if finding.level is Level.PROBLEM and (name != "orphans" or orphans.FIX not in finding.mend):
                return [f"nothing was mended, as long as {name} has a problem: {finding.what}"]
    return orphans.mend(file.sweep) or ["nothing was left to mend"]
