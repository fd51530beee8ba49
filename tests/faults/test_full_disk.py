"""A trial on a real small file system that runs full, becomes read-only, or is emptied: it ends as undisturbed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_numbers import EVALUATION, TRIAL, ended

from workers.failures import ErrorClass, StorageError, classify
from workers.journal import Journal
from workers.storage import Folder
from workers.trial import run_trial, trial_steps

SIZE = 16 * 2**20


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    return None if shutil.which("mount") else "needs mount"


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"this machine mounts nothing: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], str]:
    return ended(Folder(str(tmp_path_factory.mktemp("undisturbed"))))


def fill(disk: Path) -> Path:
    """Takes every free byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 2**20
        while size:
            try:
                while file.write(b"x" * size) == size:
                    pass
                size //= 2
            except OSError:
                size //= 2
    return ballast


def begin(folder: Folder) -> Iterator[object]:
    """The steps of a trial, in its second epoch."""
    steps = trial_steps(TRIAL, EVALUATION, folder)
    for progress in steps:
        if (getattr(progress, "epoch", 0), getattr(progress, "batch", 0)) == (1, 1):
            break
    return steps


def epochs(folder: Folder) -> list[int]:
    return [record.step for record in Journal(folder).records if record.key == "train/loss"]


def test_a_full_disk(disk: Path, undisturbed: tuple[dict[str, float], str]) -> None:
    folder = Folder(f"{disk}/t")
    steps = begin(folder)
    ballast = fill(disk)
    with pytest.raises((OSError, StorageError)) as raised:
        list(steps)
    assert classify(raised.value) is ErrorClass.STORAGE_UNAVAILABLE
    with pytest.raises((OSError, StorageError)):  # still full
        run_trial(TRIAL, EVALUATION, folder)
    ballast.unlink()
    assert ended(folder) == undisturbed
    assert epochs(folder) == [1, 2, 3]


def test_a_disk_that_is_read_only(disk: Path, undisturbed: tuple[dict[str, float], str]) -> None:
    folder = Folder(f"{disk}/t")
    begin(folder).close()  # type: ignore[attr-defined]
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises((OSError, StorageError)) as raised:
        run_trial(TRIAL, EVALUATION, folder)
    assert classify(raised.value) is ErrorClass.STORAGE_UNAVAILABLE
    subprocess.run(["mount", "-o", f"remount,rw,size={SIZE}", disk], check=True)
    assert ended(folder) == undisturbed
    assert epochs(folder) == [1, 2, 3]


def test_a_folder_that_is_removed_under_a_trial(disk: Path, undisturbed: tuple[dict[str, float], str]) -> None:
    """It goes on with what it has in memory; what was recorded before stands in the tracking store alone."""
    folder = Folder(f"{disk}/t")
    steps = begin(folder)
    shutil.rmtree(f"{disk}/t")
    list(steps)
    assert ended(folder) == undisturbed
    assert epochs(folder) == [2, 3]
