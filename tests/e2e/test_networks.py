"""Early stopping and curves over training, through the command: every network has its row in every table."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.e2e.sweeping import ATTACK, BASE, Place, run_inside

STOPPING = {"attack": ATTACK, "examples": 100}
EPOCHS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    training = {**BASE["training"], "epochs": EPOCHS, "early_stopping": STOPPING, "keep_every": 1}
    evaluation = {**BASE["evaluation"], "checkpoints": ["last", "best", "kept"]}
    made = Place(tmp_path_factory.mktemp("networks"), "networks", training=training, evaluation=evaluation)
    done = made.run("submit")
    assert done.returncode == 0, made.output("stderr")
    return made


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run_inside(*words) == 0
    return capsys.readouterr().out


def rows(place: Place, capsys: pytest.CaptureFixture[str]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(printed(capsys, "export", str(place.file))))


def test_export_has_every_network(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(place, capsys)
    for trial_id, own in table.groupby("trial_id"):
        assert list(own["checkpoint"]) == ["last", "best", "epoch 1", "epoch 2"]
        assert list(own["epoch"][own["checkpoint"] != "best"]) == [EPOCHS, 1, 2]
        names = {"last": "", "best": "best-", "epoch 1": "epoch-000001-", "epoch 2": "epoch-000002-"}
        for label, name in names.items():
            pattern = re.compile(rf"(robustness|average_flatness)-{name}[0-9a-f]{{16}}\.json")
            folder = place.trial_folder(str(trial_id)) / "measures"
            files = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
            assert len(files) == 2
            values: dict[str, float] = {}
            for file in files:
                values |= json.loads(file.read_text())["values"]
            (row,) = own[own["checkpoint"] == label].to_dict("records")
            assert {key: row[key] for key in values} == pytest.approx(values)


def test_the_best_epoch_is_the_one_with_the_smallest_validation_error(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(place, capsys)
    for trial_id, run in place.recorded().items():
        errors, losses = dict(run.points["validation/robust_error"]), dict(run.points["validation/robust_loss"])
        assert sorted(errors) == [1, 2, 3]
        best = min(errors, key=lambda epoch: (errors[epoch], losses[epoch]))
        (row,) = table[(table["trial_id"] == trial_id) & (table["checkpoint"] == "best")].to_dict("records")
        assert row["epoch"] == best
        assert [step for step, _ in run.points["robust_loss_gap"]] == [1, 2, 3], "a curve in MLflow"
        assert run.metrics["robust_loss_gap"] == dict(run.points["robust_loss_gap"])[EPOCHS]


def test_status_lists_networks_and_counts_trials(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(printed(capsys, "status", str(place.file), "--json"))
    assert found["counts"] == {"finished": 2}
    text = printed(capsys, "status", str(place.file))
    assert text.count(" best (") == 2 and "epoch 1" not in text and "2 finished" in text


def test_correlate_uses_each_network_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(place, capsys)
    early = ((table["checkpoint"] == "best") & (table["epoch"] < EPOCHS)).sum()
    found = json.loads(printed(capsys, "correlate", str(place.file), "--json"))
    assert found["networks"] == 2 + early


def test_submitted_again_nothing_is_left(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing to run" in printed(capsys, "plan", str(place.file))
    snapshots = list(Path(place.folder).rglob("snapshots/*.pt"))
    assert len(snapshots) in {4, 5, 6}, "two kept epochs of each trial, and its best one"
