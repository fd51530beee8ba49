"""What people do to one sweep: submit it twice at once, press Ctrl-C twice, edit, move and upgrade in between.

And what their machines do: clocks that are set meanwhile.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeping import BASE, COMMAND, Place, alive, environment, processes, wait_for
from undisturbed import as_undisturbed, slowly, went_on

import orchestrator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

EPOCHS = 12
SECONDS = 1.0
LONG = 600.0
"""Seconds that a busy machine may take to start Ray."""
TRAINING = BASE["training"] | {"epochs": EPOCHS}
OTHER_VERSION = "0.1.99"


def submitting(place: Place, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(COMMAND), "submit", str(place.file)], env=environment(**env), cwd=place.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def upgraded(folder: Path) -> Path:
    """flatsweep with another version."""
    root = Path(orchestrator.__file__).parent.parent
    for package in ("orchestrator", "workers"):
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "orchestrator" / "__init__.py"
    text = file.read_text()
    assert f'"{orchestrator.__version__}"' in text
    file.write_text(text.replace(f'"{orchestrator.__version__}"', f'"{OTHER_VERSION}"'))
    return folder


def read(place: Place, command: str, *words: str) -> Any:
    done = subprocess.run(
        [str(COMMAND), command, str(place.file), *words, "--json"], env=environment(), cwd=place.folder,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def ended() -> Iterator[contextlib.ExitStack]:
    """What is to be done at the end, whatever happens."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_sweep_among_people(tmp_path: Path, ended: contextlib.ExitStack) -> None:
    first = tmp_path / "first"
    first.mkdir()
    one = {"methods": ["at"], "seeds": [0]}
    place = Place(first, "shared", training=TRAINING, grid=one)
    (trial_id,) = place.trials()
    env = slowly(tmp_path, EPOCHS, SECONDS)

    both = [submitting(place, **env) for _ in range(2)]
    for process in both:
        ended.callback(process.kill)
    wait_for(lambda: any(process.poll() is not None for process in both), "the one that is too late", LONG)
    (refused,), (driver,) = (
        [p for p in both if p.poll() is not None], [p for p in both if p.poll() is None],
    )  # fmt: skip
    said = refused.communicate()[0]
    assert (refused.returncode, f"is being run by process {driver.pid} on" in said) == (2, True), said
    assert "Traceback" not in said

    wait_for(lambda: place.epochs(trial_id) >= 2 or driver.poll() is not None, "two epochs", LONG)
    scratch = place.trial_folder(".driver.scratch").read_text()
    worker = int(place.journal_tag(trial_id, "pid"))
    driver.send_signal(signal.SIGINT)
    time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=120)[0]
    assert driver.returncode == 130 and "stopping: running trials save a checkpoint" in said, said
    assert "Traceback" not in said, said
    wait_for(lambda: not processes(scratch) and not alive(worker), "the end of its processes", 60)
    assert place.epochs(trial_id) < EPOCHS

    second = tmp_path / "second"  # moved, edited, and with another flatsweep
    shutil.move(first, second)
    moved = Place(second, "shared", training=TRAINING, grid=one | {"seeds": [0, 1]})
    code = upgraded(tmp_path / "code")
    refused_move = moved.run("submit", PYTHONPATH=str(code))
    assert refused_move.returncode == 2 and "the storage was moved" in refused_move.stderr
    (second / "runs" / "mlflow.db").rename(second / "runs" / "before.db")
    synced = moved.run("sync", PYTHONPATH=str(code))
    assert synced.returncode == 0, synced.stderr
    done = moved.run("submit", PYTHONPATH=str(code), **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not first.exists(), "something was written where the sweep had been"
    runs = moved.recorded()
    assert {run.tag("flatsweep_version") for run in runs.values()} == {OTHER_VERSION}
    (begun_at,) = went_on(moved, trial_id)
    assert 1 < begun_at <= EPOCHS
    as_undisturbed(moved, tmp_path / "alone")

    status = read(moved, "status")
    assert status["counts"] == {"finished": 2} and status["waiting"] is None and status["store_problem"] is None
    assert status["repeated"]["restarts"] == 1 and status["repeated"]["trained_seconds"] > 0

    place = Place(second, "shared", training=TRAINING, grid=one | {"seeds": [0, 1, 2]})  # and back to the old one
    assert place.run("submit").returncode == 0
    mixed = read(place, "correlate")["mixed"]
    assert any("mixed flatsweep_version" in line and OTHER_VERSION in line for line in mixed), mixed


HOUR = 3600.0


def test_edited_before_the_rerun_while_clocks_are_set(tmp_path: Path) -> None:
    """A trial runs out of memory; the file gets another seed; `rerun` takes up the failed one, the next submit the new.

    The clock of a worker is set 5 hours on and back again, that of the drivers 3 hours back while they work.
    """
    one = {"methods": ["at"], "seeds": [0]}
    place = Place(tmp_path, "edited", training=TRAINING, grid=one)
    (first,) = place.trials()
    faults = [
        {"point": "train/epoch", "action": "clock", "hit": 2, "seconds": 5 * HOUR},
        {"point": "train/batch", "action": "oom", "hit": 3 * 5},
        {"point": "driver/run-made", "action": "clock", "seconds": -3 * HOUR},
        {"point": "train/epoch", "action": "clock", "hit": 3, "seconds": -5 * HOUR},
        {"point": "driver/trial-end", "action": "clock", "seconds": -3 * HOUR},
    ]
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(faults))
    env = {"FLATSWEEP_FAULTS": str(file)}

    failed = place.run("submit", **env)
    assert failed.returncode == 1 and "out_of_memory" in failed.stdout, failed.stdout + failed.stderr
    assert 2 <= place.epochs(first) < EPOCHS
    place.write(training=TRAINING, grid=one | {"seeds": [1, 0]})
    second = next(trial_id for trial_id in place.trials() if trial_id != first)
    again = place.run("rerun", "--json", **env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["launched"] == 1
    assert (place.attempts(first), place.attempts(second)) == (2, 0), "what is new waits for a submit"
    assert all(1 < epoch <= EPOCHS for epoch in went_on(place, first))

    done = place.run("submit", "--json", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place.attempts(first), place.attempts(second)) == (2, 1)
    struck = [json.loads(line) for line in Path(f"{file}.log").read_text().splitlines()]
    assert sorted(fault["fault"] for fault in struck) == list(range(len(faults)))
    as_undisturbed(place, tmp_path / "alone")
    runs = place.recorded()
    for trial_id in (first, second):  # durations are those of a steady clock
        assert 0 < runs[trial_id].metrics["cost/train_seconds"] < HOUR
    read(place, "status")
    assert place.run("submit", "--json").returncode == 0
    assert (place.attempts(first), place.attempts(second)) == (2, 1)
