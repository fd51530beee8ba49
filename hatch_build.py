"""Writes into each wheel the commit that it is built from, so that a cluster can say what code it runs."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "FLATSWEEP_COMMIT"
"""Says the commit where there is no .git, as in a container's build."""


class CommitHook(BuildHookInterface):  # type: ignore[misc]
    """Adds orchestrator/COMMIT; a tree that is no git checkout, such as an sdist, gets none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatch before it collects the files; an editable install reads git itself."""
        commit = os.environ.get(VARIABLE) or self._checked_out()
        if version != "standard" or not commit:
            return
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.write(commit + "\n")
        build_data["force_include"][file.name] = "orchestrator/COMMIT"

    def _checked_out(self) -> str:
        if not (Path(self.root) / ".git").exists():
            return ""
        return self._git("rev-parse", "HEAD") + ("-dirty" if self._git("status", "--porcelain") else "")

    def _git(self, *words: str) -> str:
        command = ["git", "-C", self.root, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()
