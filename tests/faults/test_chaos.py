"""Sweeps in which everything dies end as if nothing had: see `chaos.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).with_name("chaos.py")
MENDED = "0-4,41"
"""Seeds that showed mistakes once. 0, 3, 4: a run that its driver left without its file, 4: without parameters; 3:
finished parts of a measure that stayed; 1, 3: a sweep's own run that said FAILED for ever; 41: one checkpoint more."""


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, str(CHAOS), "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_two_trials_and_one_seed(tmp_path: Path) -> None:
    said = run(tmp_path, "--small", "--seeds", "3")
    assert said.count("identical") == 1
    found = json.loads((tmp_path / "undisturbed" / "found.json").read_text())
    assert found["found"]["kinds"] == {"sweep": 1, "trial": 2}
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    assert len(lines) >= 3 and all(json.loads(line)["seconds"] is not None for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_seeds_that_showed_mistakes(tmp_path: Path) -> None:
    assert run(tmp_path, "--seeds", MENDED).count("identical") == 6


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_seeds(tmp_path: Path) -> None:
    said = run(tmp_path, "--seeds", "0-199")
    assert said.count("identical") == 200
    faults = int(said.rsplit(" sweeps, ", 1)[1].split(" faults")[0])
    assert faults >= 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_ray(tmp_path: Path) -> None:
    said = run(tmp_path, "--ray", "--seeds", "0-1", "--jobs", "1")
    assert said.count("identical") == 2
