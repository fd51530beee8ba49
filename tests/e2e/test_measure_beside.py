"""`flatsweep measure --record-in`: networks from elsewhere as rows of a sweep, beside trials that were really run."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.sweeping import BASE, COMMAND, Place, Recorded, environment, run_inside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODULE = """
import torch
from torch import nn
from orchestrator.spec.data import DATA
from orchestrator.spec.models import SmallPreActResNet
from workers.data.splits import load_splits
from workers.models.classifier import build_classifier

def ours():
    splits = load_splits(DATA.parse({"name": "digits", "train_size": 300}), torch.device("cpu"))
    return build_classifier(SmallPreActResNet(width=8), splits, 5, torch.device("cpu"))

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""
MEASURES = [*BASE["evaluation"]["measures"], "norms"]


class Submitted(Place):
    """A sweep that has run, and somebody's module and weights in its folder."""

    def measure(self, *words: str) -> int:
        return run_inside("measure", "--device", "cpu", "--record-in", str(self.file), *words)

    def externals(self) -> dict[str, Recorded]:
        """By label."""
        found = {key: run for key, run in self.recorded().items() if run.tag("method_name") == "external"}
        assert not found.keys() & self.trials().keys()
        return {run.tag("method").removeprefix("external(label=").removesuffix(")"): run for run in found.values()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    folder = tmp_path_factory.mktemp("measure")
    made = Submitted(folder, "laid", evaluation={"measures": MEASURES})
    assert made.run("submit").returncode == 0, made.output("stderr")
    (folder / "theirs.py").write_text(MODULE)
    network: Any = {}
    exec(MODULE, network)
    torch.manual_seed(0)
    save_file({f"module.{name}": value for name, value in network["mlp"]().state_dict().items()},
              folder / "mlp.safetensors")  # fmt: skip
    return made


@pytest.fixture
def place(swept: Submitted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Submitted]:
    """In the sweep's folder, whose modules can be imported."""
    monkeypatch.chdir(swept.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield swept
    sys.modules.pop("theirs", None)


def exported(place: Submitted, capsys: pytest.CaptureFixture[str]) -> pd.DataFrame:
    capsys.readouterr()
    assert run_inside("export", str(place.file)) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def newest(place: Submitted, trial_id: str) -> Path:
    return max((place.trial_folder(trial_id) / "checkpoints").glob("*.pt"))


def test_a_trials_own_network_has_the_trials_values(place: Submitted, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint goes in as a stranger's would, and everything that is measured comes out as before."""
    trial_id = next(iter(place.trials()))
    words = ("--model", "theirs:ours", "--checkpoint", str(newest(place, trial_id)), "--label", "own", "--json")
    capsys.readouterr()
    assert place.measure(*words) == 0
    said = json.loads(capsys.readouterr().out)
    own = place.results(trial_id)
    assert said.keys() == own.keys()
    assert said.pop("initial_distance") is None and own.pop("initial_distance") > 0
    assert said == pytest.approx(own, rel=1e-3, abs=1e-5)  # other threads, another rounding
    run = place.externals()["own"]
    assert run.status == "FINISHED" and run.tag("state") == "finished"
    assert run.tag("weights") == place.recorded()[trial_id].tag("weights")
    assert run.tag("data_digest") == place.recorded()[trial_id].tag("data_digest")
    assert {key: run.metrics[key] for key in said} == pytest.approx(said)
    table = exported(place, capsys)
    row, trials = table[table["method_name"] == "external"].iloc[0], table[table["trial_id"] == trial_id].iloc[0]
    assert (row["method"], row["regularizer"], row["state"]) == ("external(label=own)", "none", "finished")
    assert row["robust_loss_gap"] == pytest.approx(trials["robust_loss_gap"], rel=1e-3)
    assert "initial_distance is not known" in row["flags"]


def test_a_safetensors_file_from_the_real_command(place: Submitted) -> None:
    """Standard output is JSON and nothing else, with MLflow and all."""
    words = ["measure", "--model", "theirs:mlp", "--checkpoint", "mlp.safetensors", "--device", "cpu", "--json"]
    words += ["--record-in", place.name, "--label", "mlp"]  # by name: the sweep was submitted from here
    done = subprocess.run(
        [str(COMMAND), *words], capture_output=True, text=True, cwd=place.folder, env=environment(), timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clean_error_test"] > 0.5
    run = place.externals()["mlp"]
    assert f"recorded as run {run.run_id}" in done.stderr and "Traceback" not in done.stderr
    assert run.params["model"] == "theirs:mlp" and run.params["checkpoint"] == "mlp.safetensors"
    assert run.params["attack.eps"] == "0.15" and run.params["data.name"] == "digits"
    artifacts = place.client.list_artifacts(run.run_id, "measures")
    assert len(artifacts) == len(MEASURES)
    (parent,) = place.runs("sweep")
    assert run.tags["mlflow.parentRunId"] == parent.info.run_id


def test_measured_again_it_is_the_same_run(place: Submitted, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "theirs:mlp", "--checkpoint", "mlp.safetensors", "--label", "mlp")
    assert place.measure(*words) == 0
    before = place.externals()["mlp"]
    folder = place.trial_folder(before.tag("trial_id"))
    files = {path.name: path.stat().st_mtime_ns for path in (folder / "measures").iterdir()}
    assert place.measure(*words) == 0
    after = place.externals()["mlp"]
    assert (after.run_id, after.status) == (before.run_id, "FINISHED")
    assert {key: len(points) for key, points in after.points.items()} == dict.fromkeys(before.points, 1)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "measures").iterdir()} == files
    assert place.measure(*words[:-1], "another") == 0
    assert place.externals()["another"].run_id != before.run_id


def test_a_recording_that_was_cut_short_is_finished_by_the_next(place: Submitted) -> None:
    """A driver of the sweep meanwhile neither closes it nor counts it among its own."""
    words = ("--model", "theirs:mlp", "--label", "cut")
    assert place.measure(*words) == 0
    run = place.externals()["cut"]
    place.client.update_run(run.run_id, status="SCHEDULED")
    place.client.set_tag(run.run_id, "flatsweep.state", "pending")
    done = place.run("submit", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["launched"] == 0
    assert json.loads(done.stdout)["counts"] == {"done": 2}
    assert place.externals()["cut"].status == "SCHEDULED"
    assert place.measure(*words) == 0
    assert (place.externals()["cut"].run_id, place.externals()["cut"].status) == (run.run_id, "FINISHED")


def test_status_and_correlation_have_them(place: Submitted, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("one", "two"):
        assert place.measure("--model", "theirs:mlp", "--model-args", "{}", "--label", label) == 0
    external = len(place.externals())
    capsys.readouterr()
    assert run_inside("status", str(place.file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"finished": 2 + external}
    assert run_inside("status", str(place.file)) == 0
    assert "external(label=one)" in capsys.readouterr().out
    assert run_inside("correlate", str(place.file), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["networks"], found["cells"]) == (2 + external, 1 + external)
    assert found["left_out"] == [] and found["not_used"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--label", "x", "--measures", "robustness"),
            "--record-in measures what the sweep measures: leave",
        ),
        (("--label", "x", "--seed", "3"), "--record-in measures what the sweep measures"),
        ((), "--label is missing: what the sweep's tables are to call this network"),
        (("--label", "two words"), "--label: 'two words' is no plain label"),
        (("--label", "x", "--data", "{name: digits, train_size: 200}"), "--data: not one of the sweep's"),
        (("--label", "x", "--attack", "{eps: 0.3}"), "--attack: not one of the sweep's"),
    ],
)
def test_what_would_not_be_comparable_is_refused(
    words: tuple[str, ...], message: str, place: Submitted, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.externals().keys()
    capsys.readouterr()
    assert place.measure("--model", "theirs:mlp", *words) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    assert place.externals().keys() == before
