"""What code makes a run: versions of packages, flatsweep's own code, and the commit of the sweep file's folder."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PACKAGES = ("orchestrator", "workers")
COMMIT_FILE = "COMMIT"
"""In the package `orchestrator` of a wheel: the commit that it was built from. Written by hatch_build.py."""
DIGEST_DIGITS = 12


class Code(BaseModel):
    """The flatsweep that is installed somewhere."""

    model_config = ConfigDict(frozen=True)

    version: str
    digest: str
    """Hash of its files: equal exactly where the code is."""
    commit: str
    """That it was built from; '' where nobody knows."""

    def __str__(self) -> str:
        return f"{self.version} (code {self.digest}{f', commit {self.commit[:10]}' if self.commit else ''})"


@cache
def own_code() -> Code:
    """The flatsweep that runs here."""
    root = Path(__file__).parent.parent
    hashed = hashlib.sha256()
    files = (file for package in PACKAGES for file in (root / package).rglob("*") if file.is_file())
    for file in sorted(files):
        if "__pycache__" not in file.parts and file.name != COMMIT_FILE:
            hashed.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return Code(version=version("flatsweep"), digest=hashed.hexdigest()[:DIGEST_DIGITS], commit=_own_commit(root))


def _own_commit(root: Path) -> str:
    built = root / "orchestrator" / COMMIT_FILE
    if built.exists():
        return built.read_text().strip()
    # elsewhere than in flatsweep's own checkout, the commit would be of whatever lies around the installed package
    return git_commit(root) if (root / "hatch_build.py").exists() else ""


def source_tags(commit: str) -> dict[str, str]:
    """Versions, flatsweep's own code and the commit of the folder that holds the sweep file, as tags."""
    code = own_code()
    packages = {f"flatsweep.{name}_version": version(name) for name in ("flatsweep", "ray", "mlflow", "torch")}
    own = {"flatsweep.code_digest": code.digest, "flatsweep.code_commit": code.commit}
    return packages | own | {"flatsweep.git_commit": commit, "flatsweep.python_version": platform.python_version()}


def git_commit(folder: Path) -> str:
    """The commit checked out in a folder, '-dirty' added where files differ; '' outside of git or without git."""
    try:
        return _git(folder, "rev-parse", "HEAD") + ("-dirty" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
