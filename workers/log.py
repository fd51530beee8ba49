"""Bytes that are only ever added to, on disk when `append` returns.

In a local folder they are one file. An object store cannot add to an object, so there they are segments in a folder of
that name: one object for each addition, called by its first and last number, made with a write that refuses to replace.
What is added ends a line: one that was damaged costs its own lines and not those of its neighbours.
Of two writers that both believe to be alone, the later one is refused. `pack` makes one segment of many; those that it
covers are left out when reading, whenever they are deleted.
"""

import re

from workers.failures import StorageError
from workers.storage import Folder

_SEGMENT = re.compile(r"(\d{8})-(\d{8})")


class Log:
    """One log in a folder, as it is and as it grows.

    Args:
        folder: where it lies.
        name: of the file, or of the folder of segments.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._segments = folder / name
        self._last = 0

    def read(self) -> bytes:
        """All of it; empty where there is none."""
        if self._folder.is_local:
            return self._folder.read(self._name) if self._folder.exists(self._name) else b""
        names = self._counting()
        self._last = _numbers(names[-1])[1] if names else 0
        return self._joined(names)

    def append(self, content: bytes) -> None:
        """Adds whole lines to the end; on an object store, to what was read or added last.

        Raises:
            StorageError: another process has added to it meanwhile.
        """
        if self._folder.is_local:
            self._folder.append(self._name, content)
            return
        number = self._last + 1
        if not self._segments.create(_name(number, number), content):
            raise StorageError(f"another process is writing {self._segments}")
        self._last = number

    def mend(self, content: bytes) -> None:
        """Puts `content` in the place of all, as one file; segments are whole, and stay as they are."""
        if self._folder.is_local:
            self._folder.write(self._name, content)

    def pack(self) -> None:
        """Makes one segment of all, which is read at once; call it only while nobody else may write."""
        names = [] if self._folder.is_local else self._counting()
        if len(names) > 1:
            packed = _name(1, _numbers(names[-1])[1])
            self._segments.write(packed, self._joined(names))
            found = [name for name in self._segments.names() if _SEGMENT.fullmatch(name)]
            covered = [name for name in found if name != packed and _numbers(name)[1] <= _numbers(packed)[1]]
            self._segments.delete_files(covered)

    def _joined(self, names: list[str]) -> bytes:
        parts = self._segments.read_all(names)
        return b"".join(part if not part or part.endswith(b"\n") else part + b"\n" for part in parts)

    def _counting(self) -> list[str]:
        """Names of the segments that count, in order: those that no longer one covers."""
        spans = sorted(
            (_numbers(name) for name in self._segments.names() if _SEGMENT.fullmatch(name)),
            key=lambda span: (span[0], -span[1]),
        )
        reached, counting = 0, []
        for first, last in spans:
            if first > reached:
                counting.append(_name(first, last))
                reached = last
        return counting


def _name(first: int, last: int) -> str:
    return f"{first:08d}-{last:08d}"


def _numbers(name: str) -> tuple[int, int]:
    first, last = name.split("-")
    return int(first), int(last)
