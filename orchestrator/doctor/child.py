"""The process of one check: `python -m orchestrator.doctor.child MODULE`, the question on stdin, findings on stdout."""

import importlib
import json
import os
import sys

from orchestrator.doctor.finding import Question


def main() -> None:
    """Answers; whatever libraries print goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"orchestrator.doctor.{sys.argv[1]}")
    found = module.findings(Question.unpacked(sys.stdin.read()))
    with answer:
        json.dump([finding.as_dict() for finding in found], answer)


if __name__ == "__main__":
    main()
