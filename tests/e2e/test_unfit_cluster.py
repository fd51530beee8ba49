"""What only Ray can tell: a trial is too large for every node."""

import json
from pathlib import Path

import pytest
from sweeping import Place, run_inside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def refused(place: Place, *words: str) -> str:
    done = place.run("submit", *words, timeout=300)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def left(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """No trial began, and the next submit would run them all."""
    assert {run.info.status for run in place.runs()} <= {"SCHEDULED"}
    assert not any(place.trial_folder(trial_id).exists() for trial_id in place.trials())
    assert run_inside("plan", str(place.file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"run": 2}


def test_resources_that_no_node_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path, "large", resources={"cpu": 10_000, "gpu": 3, "accelerator_type": "H100"})
    message = refused(place)
    assert "resources: a trial wants 10000 CPU, 3 GPU and type H100 on one node; nodes have: " in message
    assert "No node is of type 'H100'" in message
    left(place, capsys)
