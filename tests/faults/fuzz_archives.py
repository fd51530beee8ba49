"""Fuzz targets: the binary files of the storage. Checkpoints, arrays of landscapes, the local copy of the runs."""

import hashlib
import io
import os
import pickle
import resource
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchestrator.analysis import landscapes
from orchestrator.local_copy import LocalCopy, _packed
from orchestrator.spec.landscape_measures import Landscape
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun
from tests.faults.fuzz_mutations import bent
from tests.faults.fuzz_target import Target
from tests.faults.fuzz_watch import watched
from workers import layout
from workers.checkpoints import newest, packed
from workers.storage import Folder

CPU = torch.device("cpu")
MAX_GROWTH = 64 << 20
"""Bytes that a reader may hold beyond what it held before, for an input of a few kilobytes."""
GOOD: dict[str, Any] = {"epoch": 1, "model": {"w": torch.arange(6.0)}}


class Trap:
    """Would run a command when it is unpickled."""

    def __init__(self, how: int) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == 0:
            return os.system, ("true",)
        if self.how == 1:
            return os.mkdir, ("/nonexistent/executed",)
        return (eval, ("1+1",)) if self.how == 2 else (open, ("/nonexistent/executed", "w"))


@cache
def _states() -> list[bytes]:
    states: list[Any] = [
        {"epoch": 2, "model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, dtype=torch.int64)}},
        {"epoch": 2, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}},
        *({"epoch": 2, "extra": Trap(how)} for how in range(4)),
        [1, 2],
        torch.arange(3.0),
    ]
    return [packed(state)[0] for state in states]


@cache
def _others() -> list[bytes]:
    """In other formats: torch's old one, plain pickles, a module of TorchScript."""
    old, state = io.BytesIO(), {"epoch": 2, "w": torch.arange(3.0)}
    torch.save(state, old, _use_new_zipfile_serialization=False)
    pickles = [pickle.dumps({"epoch": 2, "extra": Trap(how)}, protocol=how) for how in range(4)]
    return [old.getvalue(), *pickles, b"", b"PK\x05\x06" + b"\0" * 18, *[_bomb(_states()[0])] * 2]


def _bomb(content: bytes) -> bytes:
    """The same archive with its second part 200 MiB larger, compressed to a thousandth of that."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for number, entry in enumerate(old.infolist()):
            new.writestr(entry.filename, old.read(entry) + b"\0" * ((200 << 20) if number == 1 else 0))
    return buffer.getvalue()


def _change_zip(random: Random, content: bytes) -> bytes:
    """Another archive of the same parts: some damaged, gone, twice there, renamed, compressed, or much too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 1 << 20:
                return bent(random, content, _states())
            parts = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except Exception:  # it is damaged by now
        return bent(random, content, _states())
    place = random.randrange(len(parts)) if parts else 0
    how = zipfile.ZIP_STORED if random.random() < 0.8 else zipfile.ZIP_DEFLATED
    for name, inside in parts[place : place + 1]:
        match random.randrange(7):
            case 0:
                parts[place] = name, b""
            case 1:
                parts.append((name, inside))
            case 2:
                parts.pop(place)
            case 3:
                parts[place] = random.choice(["../x", name + "x", "data.pkl", "archive/data/0"]), inside
            case _:
                parts[place] = name, bent(random, inside)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, inside in parts:
            archive.writestr(zipfile.ZipInfo(name), inside, how)
    return buffer.getvalue()


def _change_checkpoint(random: Random, content: bytes) -> bytes:
    return _change_zip(random, content) if random.random() < 0.6 else bent(random, content, _states())


def _make_checkpoint(random: Random) -> bytes:
    return _change_checkpoint(random, random.choice(_states() if random.random() < 0.85 else _others()))


@cache
def _good() -> tuple[bytes, str]:
    return packed(GOOD)


def _check_checkpoint(content: bytes, folder: Path) -> bool:
    """As the newest checkpoint, once with the right hash in its name and once with another: the one before counts."""
    good, good_hash = _good()
    right = hashlib.sha256(content).hexdigest()
    (folder / layout.checkpoint_name(1, 0, good_hash)).write_bytes(good)
    taken = False
    for content_hash in (right, right[::-1]):
        damaged = folder / layout.checkpoint_name(2, 0, content_hash)
        damaged.write_bytes(content)
        before = _peak()
        with watched(folder):
            found = newest(Folder(str(folder)), CPU)
        assert _peak() - before <= MAX_GROWTH, "a small file took much memory"
        damaged.unlink()
        assert isinstance(found, dict)
        assert not any(isinstance(value, Trap) for value in found.values())
        is_good = found.get("epoch") == 1 and torch.equal(found["model"]["w"], GOOD["model"]["w"])
        taken = taken or not is_good
        assert is_good or content_hash == right
    return taken


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# arrays


@cache
def _arrays() -> list[bytes]:
    shape = {"robust_loss": (2, 3), "clean_loss": (2, 3), "robust_error": (2, 3), "clean_error": (2, 3), "alpha": (3,)}
    good, compressed, odd = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(good, **{name: np.linspace(0, 1, int(np.prod(size))).reshape(size) for name, size in shape.items()})
    np.savez_compressed(compressed, **{name: np.ones(size) for name, size in shape.items()})
    np.savez(odd, robust_loss=np.array([Trap(0)], dtype=object), allow_pickle=True)
    return [good.getvalue(), compressed.getvalue(), odd.getvalue()]


def _change_arrays(random: Random, content: bytes) -> bytes:
    return _change_zip(random, content) if random.random() < 0.6 else bent(random, content, _arrays())


def _check_arrays(content: bytes, folder: Path) -> bool:
    """A landscape is drawn from whole arrays, or told as missing."""
    sweep = Sweep.model_validate({"name": "x", "grid": {"methods": ["at"], "seeds": [0]}, "storage": str(folder)})
    measure = Landscape()
    path = folder / "x" / "t" / layout.MEASURES / layout.arrays_name(layout.result_name(measure, sweep.evaluation.seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    row = {"trial_id": "t", "checkpoint": "last", "method": "at", "regularizer": "none", "setting": "", "seed": 0}
    with watched(folder):
        found, missing = landscapes.read(sweep, pd.DataFrame([row | {"epoch": 1}]), measure)
    assert bool(len(found)) != bool(missing) or (not missing and not len(found))
    return not missing


# the copy of the runs


class _NoStore:
    """In the place of a store that is not asked."""

    uri, experiment_id = "sqlite:////x.db", "1"


@cache
def _runs() -> list[TrialRun]:
    return [
        TrialRun.of(
            f"run{number}", "FINISHED", {"trial_id": f"t{number}", "state": "finished"}, {"a": 0.5}, {"b": "c"}, 1, 2
        )
        for number in range(3)
    ]


@cache
def whole_copy() -> bytes:
    return _packed(_runs(), {"run0": {"x": {1: {"a": 0.25}}}}, 7, "key")


def _change_copy(random: Random, content: bytes) -> bytes:
    return bent(random, content, [whole_copy()]) if random.random() < 0.9 else content


def _check_copy(content: bytes, folder: Path) -> bool:
    """All runs as they were written, or none."""
    sweep = Sweep.model_validate({"name": "x", "grid": {"methods": ["at"], "seeds": [0]}, "storage": str(folder)})
    copy = LocalCopy(sweep, _NoStore(), fresh=True)  # type: ignore[arg-type]
    path = folder / "x" / "cache" / copy._file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    copy._key = "key"
    with watched(folder):
        copy._read()
    if copy._kept:
        assert list(copy._kept.values()) == _runs(), "a damaged copy was taken for the runs"
    return bool(copy._kept)


TARGETS = {
    "checkpoint": Target(_make_checkpoint, _check_checkpoint),
    "arrays": Target(lambda random: _change_arrays(random, random.choice(_arrays())), _check_arrays),
    "copy": Target(lambda random: _change_copy(random, whole_copy()), _check_copy),
}
