"""A trial's folder, reached through fsspec: atomic writes of whole files, appends that are on disk on return."""

import contextlib
import os
import uuid
from collections.abc import Iterator

import filelock
import fsspec
from fsspec.implementations.local import LocalFileSystem

from workers.failures import StorageError


class Folder:
    """One folder by path or URL.

    Args:
        url: a local path, or any URL that fsspec understands.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, path = fsspec.core.url_to_fs(self.url)
        self._path = str(path)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    @property
    def parent(self) -> "Folder":
        """The folder that this one lies in."""
        return Folder(self.url.rsplit("/", 1)[0])

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def names(self) -> list[str]:
        """Names of the files and folders inside, sorted; empty where the folder does not exist."""
        self._fs.invalidate_cache(self._path)
        try:
            return sorted(str(path).rsplit("/", 1)[-1] for path in self._fs.ls(self._path, detail=False))
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        self._fs.invalidate_cache(self._path)
        return bool(self._fs.exists(self._at(name)))

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        return bytes(self._fs.cat_file(self._at(name)))

    def modified(self, name: str) -> float:
        """When a file was written, by the storage's clock: seconds since 1970.

        Raises:
            FileNotFoundError: there is none.
        """
        self._fs.invalidate_cache(self._path)
        return float(self._fs.modified(self._at(name)).timestamp())

    def write(self, name: str, content: bytes) -> None:
        """Writes the whole file: afterwards the name holds either the old content or the new, whatever dies."""
        if not self._is_local:
            self._fs.pipe_file(self._at(name), content)
            return
        os.makedirs(self._path, exist_ok=True)  # noqa: PTH103  (paths are fsspec's, as text)
        aside = self._at(f".{name}.{uuid.uuid4().hex}.part")
        try:
            with open(aside, "wb") as file:  # noqa: PTH123
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self._at(name))  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)  # noqa: PTH108
            raise

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a file, which is made if missing."""
        self._fs.makedirs(self._path, exist_ok=True)
        with self._fs.open(self._at(name), "ab") as file:
            file.write(content)
            file.flush()
            if self._is_local:
                os.fsync(file.fileno())

    def delete(self, name: str) -> None:
        """Removes a file or a whole folder; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._at(name), recursive=True)

    def rename(self, name: str, new_name: str) -> None:
        """Gives a file or folder inside another name."""
        self._fs.mv(self._at(name), self._at(new_name), recursive=True)

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Holds the folder for this process; the system lets go of it when the process dies, however it dies.

        Args:
            timeout: seconds to wait for another holder.

        Raises:
            StorageError: another process still holds it.
        """
        os.makedirs(self._path, exist_ok=True)  # noqa: PTH103
        try:
            with filelock.FileLock(self._at(".lock"), timeout=timeout):
                yield
        except filelock.Timeout as error:
            raise StorageError(f"another process is working in {self.url}") from error
