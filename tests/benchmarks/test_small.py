"""The benchmarks of inner loops in small, on the CPU: each runs to its end and its alternatives find the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def run(script: str, *options: str, repetitions: tuple[str, ...] = ("--repetitions", "1")) -> str:
    command = [sys.executable, f"benchmarks/{script}", *repetitions, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_step_of_training() -> None:
    said = run("at_step.py", "--networks", "small_preact_resnet")
    assert re.search(r"^loss\.backward\(\) loop +\d", said, re.MULTILINE) and "floor: " in said


def test_trials_side_by_side() -> None:
    said = run("side_by_side.py")
    assert len(re.findall(r"^in turn, 2 threads +\d", said, re.MULTILINE)) == 2, said


def test_flatness_is_that_of_the_published_procedure() -> None:
    """With random starts of their own: alike, not equal."""
    said = run("flatness.py", "--network", "digits", "--restarts", "1", "--images", "64", "--steps", "4")
    names = ("flatsweep", "flatsweep, bf16", "published, released", "published, default")
    found = re.findall(", ".join(rf"{name} ([\d.]+)" for name in names), said)
    assert len(found) == 3, said
    for ours, *theirs in (tuple(map(float, row)) for row in found):
        assert all(abs(ours - other) < 0.1 * other for other in theirs), found


def test_lower_precision_changes_little() -> None:
    said = run("precision.py", "--epochs", "1", "--images", "50", repetitions=())
    rows = re.findall(r"^(\w+)\.?\S* +([\d.]+) to ([\d.]+) +bf16 +(\S+) +(\S+) +(\S+)$", said, re.MULTILINE)
    assert [row[0] for row in rows] == [
        "robust_loss_test",
        "robust_error_test",
        "average_flatness_xi0",
        "worst_flatness_xi0",
    ]
    for name, _, most, _, largest, _ in rows:
        assert abs(float(largest)) < (0.1 if "error" in name else 0.05) * float(most), said


def test_evaluation_finds_what_pyautoattack_finds() -> None:
    said = run("evaluation.py", "--images", "32", "--autoattack-images", "16")
    (found,) = re.findall(r"AutoAttack, 16 images \{'flatsweep': ([\d.]+), '[^']*': ([\d.]+)\}", said)
    assert float(found[0]) == pytest.approx(float(found[1]), abs=2 / 16)


def test_curvature_is_that_of_scipy() -> None:
    said = run("curvature.py", "--activation", "relu", "--loss", "robust", "--images", "16", "--epochs", "1")
    (found,) = re.findall(r"'flatsweep, both ends': '([\d.]+)', 'curvlinops, eigsh': '([\d.]+)'", said)
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-3)
