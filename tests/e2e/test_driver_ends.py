"""A driver that dies within a second of a trial's end, then one whose whole process group is told to end at once."""

import json
import os
import signal
from pathlib import Path

import pytest
from sweeping import BASE, Place, alive, processes, wait_for
from undisturbed import as_undisturbed, slowly, went_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS = (2, 30)
EPOCH_SECONDS = 2.0


def test_a_driver_that_ends_at_bad_moments(tmp_path: Path) -> None:
    grid = {"methods": ["at"], "seeds": [0]}
    place = Place(tmp_path, "moments", training=BASE["training"] | {"epochs": list(EPOCHS)}, grid=grid)
    short, long = place.trials()
    env = slowly(tmp_path, EPOCHS[1], EPOCH_SECONDS)
    faults = Path(env["FLATSWEEP_FAULTS"])
    at_end = {"point": "driver/trial-end", "of": short, "action": "kill", "seconds": 0.5}
    faults.write_text(json.dumps([*json.loads(faults.read_text()), at_end]))

    with place.started("submit", **env) as process:
        assert process.wait(600) == -signal.SIGKILL, place.output("stderr")
    struck = [json.loads(line) for line in Path(f"{faults}.log").read_text().splitlines()]
    assert [one["about"] for one in struck if one["point"] == "driver/trial-end"] == [short]
    assert place.journal(short)[-1].text == "finished" and place.epochs(long) < EPOCHS[1]
    workers = [int(place.journal_tag(trial_id, "pid")) for trial_id in (short, long) if place.attempts(trial_id)]
    wait_for(lambda: not any(map(alive, workers)), "the end of the workers", 90)

    before = place.epochs(long)
    with place.started("submit", **env) as process:
        wait_for(lambda: place.epochs(long) >= before + 2 or process.poll() is not None, "two more epochs", 600)
        scratch = place.trial_folder(".driver.scratch").read_text()
        worker = int(place.journal_tag(long, "pid"))
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(200)
    assert "Traceback" not in place.output("stderr")
    wait_for(lambda: not processes(scratch) and not alive(worker), "the end of all its processes", 90)
    assert place.epochs(long) < EPOCHS[1]

    done = place.run("submit", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.attempts(short) == 1, "what was finished did not run again"
    firsts = went_on(place, long)
    assert firsts and all(1 < epoch <= EPOCHS[1] for epoch in firsts)
    as_undisturbed(place, tmp_path / "alone")
