"""The storage: written, renamed, read back, locked against another process, and whether there is room."""

import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from orchestrator.doctor.finding import Finding, Level, Question, first_line
from orchestrator.doctor.room import predicted_bytes
from workers.failures import StorageError
from workers.storage import Folder

CHECK = "storage"
FLOOR_BYTES = 2**30
"""What should be free where nothing tells how much the trials will need."""
LOCK_SECONDS = 30.0
TAKES_LOCK = """
import sys
from workers.failures import StorageError
from workers.storage import Folder
try:
    with Folder(sys.argv[1]).lock(0.2):
        sys.exit(3)
except StorageError:
    sys.exit(4)
"""


def findings(question: Question) -> list[Finding]:
    """One line for what it can do, one for its room."""
    if question.storage is None:
        return [Finding(CHECK, Level.OK, "no sweep: no storage to look at")]
    where = question.storage if "://" in question.storage else str(nearest(Path(question.storage)))
    name = f".flatsweep-doctor-{uuid.uuid4().hex[:8]}"
    outer = Folder(where)
    found = []
    try:
        try:
            found += _works(outer / name, question.storage)
        finally:
            outer.delete(name)
    except (OSError, StorageError) as error:
        mend = "give a storage that this account may write, and that is mounted"
        return [Finding(CHECK, Level.PROBLEM, f"cannot work in {where}: {first_line(error)}", mend)]
    return [*found, *_room(question, where)]


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _works(folder: Folder, storage: str) -> list[Finding]:
    content = uuid.uuid4().bytes
    folder.write("one", content)
    folder.append("log", b"first\n")
    folder.append("log", b"second\n")
    folder.write("two", b"old")
    folder.write("two", content)
    folder.rename("two", "three")
    read = folder.read("one"), folder.read("log"), folder.read("three")
    if read != (content, b"first\nsecond\n", content) or "two" in folder.names():
        what = f"what is written to {storage} is read back otherwise"
        return [Finding(CHECK, Level.PROBLEM, what, "use another storage: results would be lost")]
    if not _locks(folder):
        what = f"two processes can hold a lock in {storage} at once"
        mend = "mount it with locks (NFS: no 'nolock'), or never start two drivers of one sweep"
        return [Finding(CHECK, Level.PROBLEM, what, mend)]
    return [Finding(CHECK, Level.OK, f"{storage}: written, renamed, read back, locked")]


def _locks(folder: Folder) -> bool:
    """Whether another process is kept out."""
    with folder.lock(1.0):
        words = [sys.executable, "-c", TAKES_LOCK, folder.url]
        done = subprocess.run(words, timeout=LOCK_SECONDS, capture_output=True, text=True)  # noqa: S603
    if done.returncode not in {3, 4}:
        raise StorageError(first_line(RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no word")))
    return done.returncode == 4


def _room(question: Question, where: str) -> list[Finding]:
    if "://" in where:
        return []
    free = shutil.disk_usage(where).free
    need = predicted_bytes(question.sweep) if question.sweep else None
    if need is None:
        level = Level.WARNING if free < FLOOR_BYTES else Level.OK
        what = f"{size(free)} are free; no trial tells yet what one needs ({size(FLOOR_BYTES)} is the floor)"
        return [Finding(CHECK, level, what, "make room" if level is Level.WARNING else "")]
    if not need.trials:
        return [Finding(CHECK, Level.OK, f"{size(free)} are free, and every trial is trained")]
    level = Level.PROBLEM if free < need.total else Level.WARNING if free < 2 * need.total else Level.OK
    what = f"{size(free)} are free; {need.trials} trials to come need about {size(need.total)} ({size(need.each)} each)"
    return [Finding(CHECK, level, what, "make room, or another storage" if level is not Level.OK else "")]


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
