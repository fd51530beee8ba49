"""The recipes' small forms as a user runs them: written by `init`, submitted, measured, read again by name."""

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sweeping import COMMAND, Place, environment

from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import value_keys
from orchestrator.spec.starter import recipe_names
from orchestrator.spec.sweep import Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Swept:
    """A recipe's small form after a submit."""

    folder: Path
    recipe: str
    sweep: Sweep
    said: Any

    def command(self, *words: str) -> str:
        return command(self.folder, *words)

    @property
    def place(self) -> Place:
        """Its runs; the file that a `Place` writes is one of no interest."""
        return Place(self.folder, self.sweep.name)


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(COMMAND), *words], capture_output=True, text=True, env=environment(), cwd=folder, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=recipe_names())
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp(request.param)
    command(folder, "init", "--recipe", request.param)
    file = folder / f"{request.param}.yaml"
    said = json.loads(command(folder, "submit", file.name, "--profile", "small", "--json"))
    return Swept(folder, request.param, load_sweep_file(file, "small").sweep, said)


def test_every_trial_is_finished(swept: Swept) -> None:
    ids = {trial.trial_id for trial in swept.sweep.trials()}
    assert swept.said["sweep"] == f"{swept.recipe}-small" and swept.said["counts"] == {"done": len(ids)}
    runs = swept.place.recorded()
    assert ids <= set(runs)
    assert {runs[trial_id].status for trial_id in ids} == {"FINISHED"}
    assert {path.name for path in (swept.folder / "runs").iterdir() if path.is_dir()} >= {swept.sweep.name}
    assert not (swept.folder / "runs" / swept.recipe).exists()
    (parent,) = swept.place.runs("sweep")
    assert parent.data.tags["flatsweep.profile"] == "small"


def test_every_value_of_every_network(swept: Swept) -> None:
    keys = set(value_keys(swept.sweep.evaluation.measures))
    for trial in swept.sweep.trials():
        files = sorted((swept.place.trial_folder(trial.trial_id) / "measures").glob("*.json"))
        kept = len(trial.training.kept_epochs) if "kept" in swept.sweep.evaluation.checkpoints else 0
        best = trial.training.early_stopping is not None
        assert len(files) == (1 + best + kept) * len(swept.sweep.evaluation.measures)
        values = [json.loads(path.read_text())["values"] for path in files]
        assert {key for found in values for key in found} == keys
        assert all(math.isfinite(value) for found in values for value in found.values())


def test_again_and_by_name(swept: Swept) -> None:
    again = json.loads(swept.command("submit", f"{swept.recipe}.yaml", "--profile", "small", "--json"))
    assert again["launched"] == 0
    status = json.loads(swept.command("status", swept.sweep.name, "--json"))
    assert status["counts"] == {"finished": len(swept.sweep.trials())}


def test_what_it_is_about_shows(swept: Swept) -> None:
    """Plain AT against what is to mend it: a larger gap, a sharper minimum. And along training: both grow."""
    path = swept.folder / "t.json"
    swept.command("export", f"{swept.recipe}.yaml", "--profile", "small", "-o", str(path))
    rows = json.loads(path.read_text())
    plain = {row["checkpoint"]: row for row in rows if (row["method"], row["regularizer"]) == ("at", "none")}
    gap, flatness = "robust_loss_gap", "average_flatness_xi0.5"
    better = {
        "wu20": ("awp(at, gamma=0.01)", "none"),
        "li22": ("advlc", "none"),
        "wci24": ("trades", "none"),
        "overfitting": ("at", "label_noise(rate=0.3)"),
    }
    if swept.recipe == "stutz21":
        pytest.skip("3 epochs on 400 images show nothing but that everything runs")
    for row in rows:
        if (row["method"], row["regularizer"], row["checkpoint"]) == (*better[swept.recipe], "last"):
            assert row[gap] < plain["last"][gap] and row[flatness] < plain["last"][flatness]
            break
    else:
        raise AssertionError("no such row")
    if swept.recipe == "overfitting":
        assert plain["epoch 8"]["robust_loss_test"] < plain["epoch 24"]["robust_loss_test"]
        assert plain["epoch 8"]["robust_loss_train"] > plain["epoch 24"]["robust_loss_train"]
        assert plain["epoch 8"][flatness] < plain["last"][flatness]
