"""Asks which locked packages have published vulnerabilities; fails where nobody answers, instead of finding none.

    python tools/audit.py [requirements.lock]

pip-audit says "No known vulnerabilities found", and exits with 0, also where the index knows none of the packages, as a
mirror without the vulnerability service does. So a package with a known one is asked for first, and a package that was
left out counts as a failure.

Exit codes: 0 nothing found, 1 vulnerabilities, 2 not everything could be asked for.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CANARY = "requests==2.19.0"
"""It has CVE-2018-18074, published in 2018."""
MINUTES = 15


class NotAskedError(Exception):
    """The service could not be asked, with the reason."""


def main(lock: Path) -> int:
    """Audits a file of locked packages."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder) / "requirements.txt"
            canary.write_text(CANARY + "\n")
            if not vulnerable(ask(canary, "--no-deps")):
                raise NotAskedError(f"the service knows no vulnerability of {CANARY}, which has a published one")
        answer = ask(lock, "--require-hashes")
        check_complete(answer, locked(lock))
    except NotAskedError as error:
        print(f"audit: not done: {error}; it needs the network and the index's own JSON interface", file=sys.stderr)
        return 2
    found = vulnerable(answer)
    for name, version, problems in found:
        print(f"{name} {version}: {', '.join(problems)}")
    asked = len(answer["dependencies"])
    print(f"audit: {asked} packages of this platform asked for, {len(found)} with published vulnerabilities")
    return 1 if found else 0


def ask(file: Path, how: str) -> dict[str, Any]:
    """pip-audit's answer on a file of packages.

    Raises:
        NotAskedError: it gave none.
    """
    words = ["--requirement", str(file), "--disable-pip", how, "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise NotAskedError(f"no answer within {MINUTES} minutes") from error
    try:
        return dict(json.loads(done.stdout))
    except ValueError as error:
        raise NotAskedError((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1][:300]) from error


def vulnerable(answer: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Name, version and ids of vulnerabilities, of each package that has some."""
    return [
        (package["name"], package["version"], [problem["id"] for problem in package["vulns"]])
        for package in answer["dependencies"]
        if package.get("vulns")
    ]


def check_complete(answer: dict[str, Any], names: Sequence[str]) -> None:
    """Refuses an answer that leaves packages out; those for other platforms are not in it.

    Raises:
        NotAskedError: with their names.
    """
    left = [package["name"] for package in answer["dependencies"] if "skip_reason" in package]
    if left or not answer["dependencies"]:
        raise NotAskedError(f"{len(left)} of {len(names)} packages were left out: {', '.join(left[:10])} ...")


def locked(lock: Path) -> list[str]:
    """Names of the packages in a lock file."""
    return re.findall(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==", lock.read_text())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "requirements.lock")))
