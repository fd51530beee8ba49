"""A machine that is taken away again and again, as spot instances are, until a sweep is through."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from sweeping import BASE, COMMAND, Place, environment, wait_for
from undisturbed import as_undisturbed, slowly, went_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS = 30
EPOCH_SECONDS = 2.0
"""That an epoch of the trial that is ahead takes at least."""
LIFE_SECONDS = 20.0
"""From its first sign of training until the machine is taken away."""
MOST = 20


def descendants(pid: int) -> set[int]:
    found = set[int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            found |= {child} | descendants(child)
    return found


def test_a_sweep_on_machines_that_are_taken_away(tmp_path: Path) -> None:
    """Every second one is told so (SIGTERM), the others go without a word, all processes at once (SIGKILL)."""
    grid = {"methods": ["at"], "seeds": [0, 1]}
    place = Place(tmp_path, "spot", training=BASE["training"] | {"epochs": EPOCHS}, grid=grid)
    ids = list(place.trials())
    taken: list[str] = []
    for number in range(MOST):
        before = sum(map(place.epochs, ids))
        machine = tmp_path / f"machine-{number}"
        machine.mkdir()
        env = slowly(machine, EPOCHS, EPOCH_SECONDS)  # each of them is slow from its first epoch on
        with place.started("submit", **env) as process:
            ended = lambda: process.poll() is not None  # noqa: E731
            wait_for(lambda: ended() or sum(map(place.epochs, ids)) > before, "a sign of training", 600)  # noqa: B023
            until = time.monotonic() + LIFE_SECONDS
            wait_for(lambda: ended() or time.monotonic() > until, "its time", 60)  # noqa: B023
            if ended():
                assert process.returncode == 0, place.output("stdout") + place.output("stderr")
                break
            if number % 2:
                process.send_signal(signal.SIGTERM)
                process.wait(120)
                taken.append("term")
            else:
                for pid in [process.pid, *descendants(process.pid)]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                process.wait(30)
                taken.append("kill")
    else:
        pytest.fail(f"not through after {MOST} machines")
    assert taken.count("kill") >= 1 and taken.count("term") >= 1, taken
    assert any(first > 1 for trial_id in ids for first in went_on(place, trial_id)), "it went on, and not from 0"
    as_undisturbed(place, tmp_path / "alone")
    done = subprocess.run(
        [str(COMMAND), "status", str(place.file), "--json"], env=environment(), cwd=tmp_path, capture_output=True,
        text=True, timeout=300, check=True,
    )  # fmt: skip
    repeated = json.loads(done.stdout)["repeated"]
    assert repeated["restarts"] == sum(place.attempts(trial_id) - 1 for trial_id in ids) >= len(taken)
    # a kill costs a trial an epoch at most; a note of how far it had come is a second old at most
    longest = max(value for run in place.recorded().values() for _, value in run.points["train/seconds"])
    assert 0 <= repeated["seconds"] <= taken.count("kill") * len(ids) * longest
    print(f"{len(taken)} machines taken away ({taken}); {repeated}")
