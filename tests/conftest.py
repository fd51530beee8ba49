"""What several folders of tests share."""

import subprocess
import sys
from pathlib import Path

import pytest


class Installer:
    """Builds and installs packages as users do, but without network: the build backend is at hand."""

    OPTIONS = (
        "--isolated",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    )

    def install(self, source: Path, target: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", *self.OPTIONS, "--target", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installer() -> Installer:
    return Installer()
