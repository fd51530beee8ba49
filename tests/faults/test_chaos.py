"""Sweeps in which everything dies end as if nothing had: see `chaos.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chaos_acts import BETWEEN, PREEMPTED
from chaos_faults import DURING, KINDS, drawn, mended
from chaos_outcomes import FAMILIES, PLACES, what_of
from chaos_server import ERRORS, HANGS, KILLED, LOST, SLOW

CHAOS = Path(__file__).with_name("chaos.py")


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, str(CHAOS), "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def outcomes(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "done.jsonl").read_text().splitlines()
    return [outcome for line in lines for outcome in json.loads(line)["outcomes"]]


def test_what_is_drawn_is_a_function_of_the_seed_and_leaves_nothing_out() -> None:
    assert drawn(3) == drawn(3) != drawn(4)
    all_drawn = [drawn(seed) for seed in range(200)]
    faults = {(fault.point, fault.of) for one in all_drawn for fault in one.faults}
    assert faults == {(kind.point, kind.of) for kind in KINDS}
    assert {act.what for one in all_drawn for act in one.acts} >= {*BETWEEN, *DURING, PREEMPTED}
    server = {fault.what for one in all_drawn for fault in one.server or ()}
    assert server == {ERRORS, HANGS, KILLED, LOST, SLOW}
    for fault in (fault for one in all_drawn for fault in one.faults):
        about = {"point": fault.point, "of": fault.of, "action": fault.action, "seconds": fault.seconds}
        assert FAMILIES.get(what_of(about), what_of(about)) in PLACES


def test_two_trials_and_one_seed(tmp_path: Path) -> None:
    said = run(tmp_path, "--small", "--seeds", "3")
    assert said.count("identical") == 1
    found = json.loads((tmp_path / "undisturbed" / "found.json").read_text())
    assert found["found"]["kinds"] == {"sweep": 1, "trial": 2}
    assert len(outcomes(tmp_path)) >= 3 and all(one["seconds"] is not None for one in outcomes(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_faults_that_showed_mistakes(tmp_path: Path) -> None:
    assert run(tmp_path, "--mended").count("identical") == len(mended())
    assert run(tmp_path, "--mended").count("identical") == 0  # a later call goes on: all are through


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_seeds(tmp_path: Path) -> None:
    assert run(tmp_path, "--seeds", "0-199").count("identical") == 200
    found = outcomes(tmp_path)
    assert len(found) >= 1000 and all(one["seconds"] is not None for one in found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_ray(tmp_path: Path) -> None:
    said = run(tmp_path, "--ray", "--seeds", "1-2", "--jobs", "1")
    assert said.count("identical") == 2
