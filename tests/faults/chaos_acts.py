"""What people, other programs and machines do to a sweep: between two drivers, and while one is at work."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos_place import DATA, SWEEP, Place, ended, write_digits
from chaos_processes import in_child

from orchestrator.sync import sync
from workers import layout

CTRL_C, TWICE, SECOND, KILLED, PREEMPTED = (
    "Ctrl-C",
    "Ctrl-C twice",
    "a second driver of the same sweep",
    "driver killed, for what follows",
    "everything preempted, again and again",
)
EVERY = "*"
"""Not one trial."""
GROWN = "sweep file edited: a larger grid"
TRIAL_REMOVED = "a trial's folder removed"
DATA_CHANGED = "data file changed, then put back"


@dataclass(frozen=True)
class Act:
    """One of them."""

    what: str
    driver: int
    """It happens while the driver of this number, from 0, is at work, or before it begins."""
    after: int = 0
    """Steps of trials, since that driver began, before it happens; where `repeats`, between any two."""
    seconds: float = 0.0
    chance: int = 0
    """What it chooses with."""
    repeats: bool = False


def _checkpoints(trial: Path) -> list[Path]:
    folder = trial / layout.CHECKPOINTS
    return sorted(path for path in folder.glob("*.pt") if layout.parse_checkpoint(path.name)) if folder.exists() else []


def _one_of(trials: list[Path], chance: random.Random) -> Path | None:
    return chance.choice(trials) if trials else None


def _damage(place: Place, chance: random.Random, change: Callable[[bytes], bytes]) -> str:
    """Of the newest checkpoint of a trial that will need it."""
    trial = _one_of([trial for trial in place.trials if _checkpoints(trial) and not ended(trial)], chance)
    if trial is None:
        return ""
    newest = _checkpoints(trial)[-1]
    newest.write_bytes(change(newest.read_bytes()))
    return trial.name


def _truncate(place: Place, chance: random.Random) -> str:
    return _damage(place, chance, lambda content: content[: chance.randrange(len(content))])


def _flip(place: Place, chance: random.Random) -> str:
    def change(content: bytes) -> bytes:
        at = chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]

    return _damage(place, chance, change)


def _tear_journal(place: Place, chance: random.Random) -> str:
    """As a machine that loses power leaves it: with the first half of a line at its end."""
    trial = _one_of([trial for trial in place.trials if not ended(trial)], chance)
    if trial is None:
        return ""
    journal = trial / "journal.jsonl"
    line = journal.read_bytes().splitlines()[-1]
    with journal.open("ab") as file:
        file.write(line[: chance.randrange(1, len(line))])
    return trial.name


def _remove_checkpoints(place: Place, chance: random.Random) -> str:
    trial = _one_of([trial for trial in place.trials if _checkpoints(trial)], chance)
    if trial is not None:
        shutil.rmtree(trial / layout.CHECKPOINTS)
    return trial.name if trial else ""


def _remove_trial(place: Place, chance: random.Random) -> str:
    trial = _one_of(place.trials, chance)
    if trial is not None:
        shutil.rmtree(trial)
    return trial.name if trial else ""


def _lose_store(place: Place) -> None:
    for file in place.storage.glob("mlflow.db*"):
        file.unlink()
    shutil.copy(place.folder / "empty.db", place.database)
    shutil.rmtree(place.artifacts, ignore_errors=True)


def _delete_store(place: Place, _chance: random.Random) -> str:
    if place.uri or not place.trials:
        return ""
    _lose_store(place)
    return EVERY


def _rebuild_store(place: Place, _chance: random.Random) -> str:
    if place.uri or not place.trials:
        return ""
    _lose_store(place)
    in_child(lambda: sync(place.file()))
    return EVERY


def _move(place: Place, _chance: random.Random) -> str:
    """To another folder, where the store is rebuilt: an SQLite store has the old one's name all over it."""
    if not place.trials:
        return ""
    before, place.root = place.storage, f"{place.root}-moved"
    before.rename(place.storage)
    if not place.uri:
        _lose_store(place)
        in_child(lambda: sync(place.file()))
    return EVERY


def _grow(place: Place, _chance: random.Random) -> str:
    place.small = False
    return EVERY


def _change_data(place: Place, _chance: random.Random) -> str:
    """Once every trial has begun: one that begins with other data is another experiment, and stays one."""
    begun = [trial for trial in place.trials if (trial / layout.DATA).exists()]
    cells = len(SWEEP["grid"]["methods"]) * len(SWEEP["grid"]["regularizers"])
    if place.small or len(begun) < cells or all(map(ended, begun)):
        return ""
    write_digits(place.folder / DATA, changed=True)
    return EVERY


BETWEEN: dict[str, Callable[[Place, random.Random], str]] = {
    "newest checkpoint cut off": _truncate,
    "newest checkpoint: one bit flipped": _flip,
    "half a line at a journal's end": _tear_journal,
    "a trial's checkpoints removed": _remove_checkpoints,
    TRIAL_REMOVED: _remove_trial,
    "MLflow's store lost": _delete_store,
    "MLflow's store lost, `sync`": _rebuild_store,
    "storage moved to another folder": _move,
    GROWN: _grow,
    DATA_CHANGED: _change_data,
}
"""What is done between two drivers -> how; it says to which trial, or to all, or "" where there was nothing to do."""
AGAIN = {
    "newest checkpoint cut off": 2.0,
    "newest checkpoint: one bit flipped": 2.0,
    "a trial's checkpoints removed": 3.0,
    TRIAL_REMOVED: 3.0,
}
"""Epochs of a trial that these may cost; any other fault costs at most one."""


def act_on_drivers(act: Act, drivers: list[int], workers: list[int]) -> None:
    """Does what is done to processes."""
    match act.what:
        case "Ctrl-C":
            _signal(drivers, signal.SIGINT)
        case "Ctrl-C twice":
            _signal(drivers, signal.SIGINT)
            time.sleep(act.seconds)
            _signal(drivers, signal.SIGINT)
        case "driver killed, for what follows":
            _signal(drivers, signal.SIGKILL)
        case "everything preempted, again and again":
            _signal([*drivers, *workers], signal.SIGKILL)


def _signal(processes: list[int], number: int) -> None:
    for one in processes:
        # a child that is dead, not collected, takes a signal too; others' ids are never here
        os.kill(one, number)
