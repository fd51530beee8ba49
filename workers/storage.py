"""A trial's folder, local or on an object store, reached through fsspec: atomic writes of whole files, and a lock."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import filelock
import fsspec
from fsspec.implementations.local import LocalFileSystem

from workers import faults
from workers.failures import StorageError
from workers.leases import Lease

LOCK = ".lock"
MOVING = ".moving-"
"""Before a name: the note that it is being moved, with where to."""
PART = ".part"
"""At the end of a name: a file that was being written when its writer died."""
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_REFUSALS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
"""How a server of S3 says that it does not replace what is there."""


class BadNameError(ValueError):
    """A name that leads out of its folder, or is none."""


class Folder:
    """One folder by path or URL.

    Where it is on an object store, writing is refused (StorageError) once a lock that was taken on it is lost.

    Args:
        url: a local path, or any URL that fsspec understands.

    Raises:
        StorageError: the package for such URLs is not installed, or there is none.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        self._fs, self._path, self.is_local = _file_system(self.url)
        # shared with the folders inside, whenever they are made
        self._locks: list[Lease] = []

    def __truediv__(self, name: str) -> "Folder":
        inside = Folder(f"{self.url}/{_checked(name)}")
        inside._locks = self._locks
        return inside

    @property
    def parent(self) -> "Folder":
        """The folder that this one lies in."""
        return Folder(self.url.rsplit("/", 1)[0])

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self._path}/{_checked(name)}"

    @contextlib.contextmanager
    def _reached(self, writes: bool = False) -> Iterator[None]:
        """Whatever the client of an object store raises, as StorageError; a missing file stays what it is."""
        for lease in self._locks if writes else ():
            lease.check()
        try:
            yield
        except (*_NOT_THERE, FileExistsError, StorageError, BadNameError):
            raise
        except Exception as error:  # each client has exceptions of its own
            if self.is_local:
                raise
            reason = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
            raise StorageError(f"{self.url} cannot be used: {reason}") from error

    def names(self) -> list[str]:
        """Names of the files and folders inside but locks, sorted; empty where the folder does not exist."""
        try:
            with self._reached():
                found = {str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._path, detail=False)}
        except _NOT_THERE:
            return []
        # some stores list a folder itself among what is in it
        return sorted(name for name in found if not name.endswith(LOCK) and name != self._path.rsplit("/", 1)[-1])

    def files(self) -> dict[str, int]:
        """Paths of all files inside, also in folders inside but without locks, with their sizes in bytes."""
        with self._reached():
            found = self._fs.find(self._path, detail=True)
        sizes = {str(path).removeprefix(f"{self._path}/"): int(about["size"] or 0) for path, about in found.items()}
        return {path: size for path, size in sorted(sizes.items()) if not _is_lock(path)}

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        with self._reached():
            return bool(self._fs.exists(self._at(name)))

    def modified(self, name: str) -> datetime:
        """When the file was written, by the clock of whoever stores it.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._reached():
            found: datetime = self._fs.modified(self._at(name))
            return found

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._reached():
            return bytes(self._fs.cat_file(self._at(name)))

    def read_if_there(self, name: str) -> bytes | None:
        """The whole file; None where there is none."""
        try:
            return self.read(name)
        except _NOT_THERE:
            return None

    def read_all(self, names: list[str]) -> list[bytes]:
        """Several whole files, at once where that is faster.

        Raises:
            FileNotFoundError: one is not there.
        """
        if not names:
            return []
        with self._reached():
            found = self._fs.cat([self._at(name) for name in names], on_error="raise")
            return [bytes(found[self._at(name)]) for name in names]

    def write(self, name: str, content: bytes) -> None:
        """Writes the whole file: afterwards the name holds either the old content or the new, whatever dies."""
        with self._reached(writes=True):
            if not self.is_local:
                self._fs.pipe_file(self._at(name), content)
                return
            with self._aside(name, content) as aside:
                os.replace(aside, self._at(name))  # noqa: PTH105  (paths are fsspec's, as text)
            faults.point("file/replaced", self._at(name))

    def jot(self, name: str, content: bytes) -> None:
        """Writes a small file that nothing rests on, quickly: when the machine dies, it may be empty or the old one."""
        with self._reached(writes=True):
            if not self.is_local:
                self._fs.pipe_file(self._at(name), content)
                return
            os.makedirs(self._path, exist_ok=True)  # noqa: PTH103
            aside = f"{self._path}/.{name}{PART}"  # always the same: one that is left over is written over
            with open(aside, "wb") as file:  # noqa: PTH123
                file.write(content)
            os.replace(aside, self._at(name))  # noqa: PTH105

    def create(self, name: str, content: bytes) -> bool:
        """Writes the whole file unless there is one; of several that try at once with other contents, one succeeds.

        Returns:
            Whether this content is there now.
        """
        with self._reached(writes=True):
            try:
                if not self.is_local:
                    self._fs.pipe_file(self._at(name), content, mode="create")
                else:
                    with self._aside(name, content) as aside:
                        os.link(aside, self._at(name))
                return True
            except OSError as error:
                if not isinstance(error, FileExistsError) and not _is_refusal(error):
                    raise
        # an answer that was lost on its way makes a client ask again: then it is ours that is there
        with contextlib.suppress(*_NOT_THERE):
            return self.read(name) == content
        return False

    @contextlib.contextmanager
    def _aside(self, name: str, content: bytes) -> Iterator[str]:
        """The content on disk in a file of another name, which is gone afterwards."""
        os.makedirs(os.path.dirname(self._at(name)), exist_ok=True)  # noqa: PTH103, PTH120
        place, last = self._at(name).rsplit("/", 1)
        aside = f"{place}/.{last}.{uuid.uuid4().hex}{PART}"
        try:
            with open(aside, "wb") as file:  # noqa: PTH123
                faults.write(file, content, "file/half", self._at(name))
                file.flush()
                os.fsync(file.fileno())
            faults.point("file/written", self._at(name))
            yield aside
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)  # noqa: PTH108

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a local file, which is made if missing, all of it or nothing unless the process dies
        meanwhile; `workers.log` does it everywhere.

        Raises:
            TypeError: it is on an object store, which has no such thing.
        """
        if not self.is_local:
            raise TypeError(f"no file can be added to in {self.url}")
        os.makedirs(self._path, exist_ok=True)  # noqa: PTH103
        faults.point("append/before", self._at(name))
        size = None
        try:
            with open(self._at(name), "ab") as file:  # noqa: PTH123
                size = file.tell()
                faults.write(file, content, "append/half", self._at(name))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if size is not None:
                with contextlib.suppress(OSError):  # a part of it would spoil what is added next
                    os.truncate(self._at(name), size)
            raise
        faults.point("append/after", self._at(name))

    def delete(self, name: str) -> None:
        """Removes a file or a whole folder; nothing happens where there is none."""
        with self._reached(writes=True), contextlib.suppress(*_NOT_THERE):
            self._fs.rm(self._at(name), recursive=True)

    def delete_files(self, names: Sequence[str]) -> None:
        """Removes files, on an object store many with one question; nothing happens where one is not there."""
        paths = [self._at(name) for name in names]
        with self._reached(writes=True):
            if paths and not self.is_local:
                with contextlib.suppress(*_NOT_THERE):
                    self._fs.rm(paths)
                    return
            for path in paths:
                with contextlib.suppress(*_NOT_THERE):
                    self._fs.rm_file(path)

    def rename(self, name: str, new_name: str) -> None:
        """Gives a file or folder inside another name, which is not taken.

        An object store has no such thing: objects are copied and deleted one by one. Whoever was interrupted left a
        note, by which `finish_moves` goes on.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._reached(writes=True):
            if self.is_local:
                os.rename(self._at(name), self._at(new_name))  # noqa: PTH104
                return
            source, _ = self._at(name), self._at(new_name)
            if not self.exists(name):
                raise FileNotFoundError(source)
            self.write(MOVING + name, new_name.encode())
            self._move(name, new_name)

    def finish_moves(self) -> None:
        """Ends every `rename` that was interrupted; call it only where nobody else may be at it."""
        for note in self.names() if not self.is_local else []:
            if note.startswith(MOVING):
                try:
                    self._move(note.removeprefix(MOVING), self.read(note).decode())
                except ValueError as error:  # no text, or a name that leads out of here
                    raise StorageError(f"{self.url}/{note} is damaged: {error}; delete it") from error

    def _move(self, name: str, new_name: str) -> None:
        with self._reached(writes=True):
            source, target = self._at(name), self._at(new_name)
            for path in sorted(self._fs.find(source)):
                # the numbers of leases must go on where they were
                if not _is_lock(path.removeprefix(source)):
                    self._fs.cp_file(path, target + path.removeprefix(source))
                    self._fs.rm_file(path)
            self._fs.rm_file(self._at(MOVING + name))

    @contextlib.contextmanager
    def lock(self, timeout: float, name: str = LOCK, *, unless_alive: bool = False) -> Iterator[None]:
        """Holds the folder for this process, and lets go of it when the process dies, however it dies: a local one at
        once, one on an object store when its lease has run out (`workers.leases`).

        Args:
            timeout: seconds to wait for another holder.
            name: of the lock, ending with `LOCK`.
            unless_alive: on an object store, do not wait longer for a holder that is seen to be alive.

        Raises:
            StorageError: another process still holds it.
        """
        if not self.is_local:
            with self._leased(name, timeout, unless_alive):
                yield
            return
        os.makedirs(self._path, exist_ok=True)  # noqa: PTH103
        try:
            with filelock.FileLock(self._at(name), timeout=timeout):
                yield
        except filelock.Timeout as error:
            raise StorageError(f"another process is working in {self.url}") from error

    @contextlib.contextmanager
    def _leased(self, name: str, timeout: float, unless_alive: bool) -> Iterator[None]:
        # a folder of its own: the lease itself is written without asking whether it is held
        lease = Lease(Folder(f"{self.url}/{_checked(name)}"), of=self.url)
        lease.acquire(timeout, unless_alive=unless_alive)
        self._locks.append(lease)
        try:
            yield
        finally:
            self._locks.remove(lease)
            lease.release()

    def is_locked(self, name: str = LOCK) -> bool:
        """Whether somebody holds it at this moment. Of a lease it says what this machine's clock does."""
        if not self.is_local:
            return Lease(Folder(f"{self.url}/{_checked(name)}"), of=self.url).is_held()
        if not self.exists(name):
            return False
        try:
            with filelock.FileLock(self._at(name), timeout=0):
                return False
        except filelock.Timeout:
            return True


def _file_system(url: str) -> tuple[Any, str, bool]:
    """The file system, the path in it, and whether it is this machine's."""
    # what another process has written since must be seen
    options = {"use_listings_cache": False} if "://" in url else {}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        scheme = url.split("://", 1)[0]
        how = "pip install 'flatsweep[s3]'" if scheme in {"s3", "s3a"} else str(error).splitlines()[0]
        raise StorageError(f"storage: {scheme}:// cannot be used on this machine: {how}") from error
    return system, str(path), isinstance(system, LocalFileSystem)


def _checked(name: str) -> str:
    """A name, or a path of names, that does not lead out of its folder.

    Raises:
        BadNameError: it does, or is no name.
    """
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise BadNameError(f"{name!r} is no name of a file inside a folder")
    return name


def _is_lock(path: str) -> bool:
    return any(part.endswith(LOCK) for part in path.split("/"))


def _is_refusal(error: OSError) -> bool:
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and str(response.get("Error", {}).get("Code")) in _REFUSALS
