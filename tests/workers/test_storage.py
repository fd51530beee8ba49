"""A trial's folder under kill -9, full disks and two processes at once."""

import errno
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Child

from workers.failures import ErrorClass, StorageError, classify
from workers.storage import Folder

SIZE = 1 << 20

WRITES_FOR_EVER = """
import sys
from workers.storage import Folder
folder = Folder(sys.argv[1])
folder.write("file", bytes([0]) * (1 << 20))
print("ready")
for number in range(1, 1 << 40):
    folder.write("file", bytes([number % 256]) * ((1 << 20) + number % 7))
"""

HOLDS_THE_LOCK = """
import sys, time
from workers.storage import Folder
with Folder(sys.argv[1]).lock(1):
    print("held")
    time.sleep(600)
"""


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    source = random.Random(0)
    for _ in range(4):
        with Child(WRITES_FOR_EVER, str(tmp_path)) as child:
            assert child.line() == "ready"
            versions, until = set(), time.monotonic() + source.uniform(0.05, 0.2)
            while time.monotonic() < until or len(versions) < 4:  # it is being rewritten all the time
                content = folder.read("file")
                assert len(set(content)) == 1 and SIZE <= len(content) < SIZE + 7
                versions.add(content[0])
            child.kill()
        content = folder.read("file")
        assert len(set(content)) == 1 and SIZE <= len(content) < SIZE + 7


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("file", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        folder.write("file", b"new")
    assert classify(caught.value) is ErrorClass.STORAGE_UNAVAILABLE
    assert folder.names() == ["file"] and folder.read("file") == b"old"


@settings(max_examples=30, deadline=None)
@given(first=st.binary(max_size=50), pieces=st.lists(st.binary(max_size=50), max_size=5))
def test_write_append_read(first: bytes, pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("folder"))) / "new" / "deep"
    assert folder.names() == [] and not folder.exists("file")
    folder.write("file", first)
    for piece in pieces:
        folder.append("file", piece)
    assert folder.read("file") == first + b"".join(pieces)
    folder.append("other", b"x")
    assert folder.names() == ["file", "other"]
    folder.write("file", b"short")
    assert folder.read("file") == b"short"


def test_missing_files(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "not there"))
    with pytest.raises(FileNotFoundError):
        folder.read("file")
    folder.delete("file")
    folder.delete_files(["file", "other"])
    assert folder.read_if_there("file") is None
    assert not folder.exists("file") and not (tmp_path / "not there").exists()


def test_delete_and_rename_take_files_and_folders(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    (folder / "a").write("inside", b"1")
    folder.write("b", b"2")
    folder.rename("a", "c")
    folder.rename("b", "d")
    assert folder.names() == ["c", "d"] and (folder / "c").read("inside") == b"1" and folder.read("d") == b"2"
    folder.delete("c")
    folder.delete("d")
    assert folder.names() == []


def test_another_file_system() -> None:
    folder = Folder("memory://trial-of-test-storage/a")
    folder.write("file", b"1")
    assert folder.read("file") == b"1" and folder.names() == ["file"] and folder.exists("file")
    folder.delete("file")
    assert folder.names() == []
    for name in ("a", "b", "c"):
        folder.write(name, b"1")
    folder.delete_files(["a", "gone", "b"])
    assert folder.names() == ["c"]
    with pytest.raises(TypeError):
        folder.append("file", b"2")


def test_lock_keeps_others_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "trial"))
    with Child(HOLDS_THE_LOCK, str(tmp_path / "trial")) as child:
        assert child.line() == "held"
        with pytest.raises(StorageError, match=str(tmp_path)) as caught, folder.lock(0.1):
            pytest.fail("two holders")
        assert classify(caught.value) is ErrorClass.STORAGE_UNAVAILABLE
        child.kill()
        with folder.lock(10):
            pass


def test_lock_is_free_again_after_an_exception_and_not_shared_in_one_process(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(RuntimeError), folder.lock(0.1):
        raise RuntimeError
    with folder.lock(0.1), pytest.raises(StorageError), Folder(str(tmp_path)).lock(0.1):
        pytest.fail("two holders")
