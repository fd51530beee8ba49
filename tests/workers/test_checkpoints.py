"""Checkpoints that were damaged, replaced by code, or left behind."""

import hashlib
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import CPU

from workers import checkpoints
from workers.layout import checkpoint_name, parse_checkpoint
from workers.storage import Folder


def state(number: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((50,), float(number))}, "epoch": number, "seconds": 0.5}


def epoch_of(folder: Folder) -> int | None:
    found = checkpoints.newest(folder, CPU)
    return None if found is None else int(found["epoch"])


def test_round_trip(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path)) / "checkpoints"
    assert checkpoints.newest(folder, CPU) is None
    name = checkpoints.save(folder, 3, 7, state(3))
    content = folder.read(name)
    assert parse_checkpoint(name) == (3, 7, hashlib.sha256(content).hexdigest()[:16])
    found = checkpoints.newest(folder, CPU)
    assert found is not None and torch.equal(found["model"]["w"], torch.full((50,), 3.0)) and found["seconds"] == 0.5


def test_two_are_kept_and_the_newest_is_by_progress(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for epoch, batch in ((0, 3), (1, 0), (1, 12), (2, 0), (9, 0), (10, 0), (10, 5)):
        checkpoints.save(folder, epoch, batch, state(100 * epoch + batch))
        assert epoch_of(folder) == 100 * epoch + batch
    assert [parse_checkpoint(name)[:2] for name in folder.names()] == [(10, 0), (10, 5)]  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), truncated=st.booleans())
def test_damaged_newest_gives_the_one_before(
    data: st.DataObject, truncated: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("checkpoints")))
    checkpoints.save(folder, 1, 0, state(1))
    name = checkpoints.save(folder, 2, 0, state(2))
    content = bytearray(folder.read(name))
    place = data.draw(st.integers(0, len(content) - 1))
    if truncated:
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    folder.write(name, bytes(content))
    assert epoch_of(folder) == 1


def test_the_warning_names_the_file_and_all_damaged_is_a_fresh_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(str(tmp_path))
    names = [checkpoints.save(folder, epoch, 0, state(epoch)) for epoch in (1, 2)]
    folder.write(names[1], b"")
    with caplog.at_level(logging.WARNING):
        assert epoch_of(folder) == 1
    assert names[1] in caplog.text and names[0] not in caplog.text
    folder.write(names[0], b"x")
    assert epoch_of(folder) is None


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(how: str, tmp_path: Path) -> None:
    """Its name's hash is right, as an attacker would see to."""
    folder, trap = Folder(str(tmp_path / "checkpoints")), tmp_path / "executed"
    checkpoints.save(folder, 1, 0, state(1))
    if how == "torch":
        checkpoints.save(folder, 2, 0, {"epoch": 2, "model": Malice(trap)})
    else:
        content = pickle.dumps({"epoch": 2, "model": Malice(trap)}, protocol=2)
        folder.write(checkpoint_name(2, 0, hashlib.sha256(content).hexdigest()), content)
    assert epoch_of(folder) == 1
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malice(trap)))
    assert trap.exists()  # the trap itself works


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("notes.pt", b"mine")
    folder.write(".epoch-000009-batch-0000000-0123456789abcdef.pt.77.part", b"half of one, from a killed writer")
    for epoch in range(4):
        checkpoints.save(folder, epoch, 0, state(epoch))
    assert epoch_of(folder) == 3
    assert folder.read("notes.pt") == b"mine"


def test_tidy_removes_what_an_interrupted_save_left(tmp_path: Path) -> None:
    folder, aside = Folder(str(tmp_path / "f")), Folder(str(tmp_path / "aside"))
    for epoch in (1, 2, 3):
        name = checkpoints.save(aside, epoch, 0, state(epoch))
        folder.write(name, aside.read(name))  # three stay, as if the last save had died before it removed the first
    checkpoints.tidy(folder, 2, 0)  # the newest could not be loaded: all stay
    assert len(folder.names()) == 3
    checkpoints.tidy(folder, 3, 0)
    assert [parse_checkpoint(name)[:2] for name in folder.names()] == [(2, 0), (3, 0)]  # type: ignore[index]
    checkpoints.tidy(Folder(str(tmp_path / "none")), 0, 0)
