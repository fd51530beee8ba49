"""What code makes a run: versions of packages, and the commit of the folder with the sweep file, as tags."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def source_tags(base: Path) -> dict[str, str]:
    """Versions and the commit of the folder that holds the sweep file, as tags."""
    packages = {f"flatsweep.{name}_version": version(name) for name in ("flatsweep", "ray", "mlflow", "torch")}
    return packages | {"flatsweep.git_commit": git_commit(base), "flatsweep.python_version": platform.python_version()}


def git_commit(folder: Path) -> str:
    """The commit checked out in a folder, '-dirty' added where files differ; '' outside of git or without git."""
    try:
        return _git(folder, "rev-parse", "HEAD") + ("-dirty" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
