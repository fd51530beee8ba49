#!/usr/bin/env python3
"""A container's health check: whether its Ray node works, and on the head the Jobs API too. Standard library only.

Usage: ray_health.py node|head. Exit code 0 with one line, or 1 with the reason.
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

SECONDS = 8
NODE = "http://127.0.0.1:52365/api/healthz"
"""Ray's agent on every node: its raylet, and on the head the global control service."""
JOBS = "http://127.0.0.1:8265/api/jobs/"


def ask(url: str, token: str = "") -> bytes:
    """The answer's body; raises OSError where there is none or its status is no 200."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


def main(what: str) -> str:
    """Asks; returns what works."""
    ask(NODE)
    if what == "node":
        return "the Ray node works"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    jobs = json.loads(ask(JOBS, Path(path).read_text().strip() if path else ""))
    return f"the Ray head works and knows {len(jobs)} jobs"


if __name__ == "__main__":
    if sys.argv[1:] not in (["node"], ["head"]):
        sys.exit("usage: ray_health.py node|head")
    try:
        print(main(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"unhealthy: {error}")
