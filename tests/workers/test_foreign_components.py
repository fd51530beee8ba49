"""What workers owe to components that flatsweep does not know: checked data, carried state, a failure on record."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from toys import CPU, digits, trial

from orchestrator.spec.data import Data
from orchestrator.spec.methods import METHODS, Method
from orchestrator.spec.sweep import Evaluation
from workers.assigned import assigned_steps
from workers.data.arrays import Arrays
from workers.data.splits import load_splits
from workers.failures import DataError
from workers.journal import Journal
from workers.methods.base import Loss
from workers.methods.standard import Standard
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest
from workers.trial import run_trial

GOOD = {"x_train": np.zeros((6, 4, 4, 1), np.uint8), "y_train": np.arange(6) % 3,
        "x_test": np.zeros((3, 4, 4, 1), np.uint8), "y_test": np.arange(3), "classes": 3}  # fmt: skip


class TwoFiles(Data):
    """Images in one file, labels in another."""

    implementation = "test_foreign_components:load"
    name: Literal["two_files"] = "two_files"
    folder: str

    def files(self) -> tuple[Path, ...]:
        return Path(self.folder, "x.npy"), Path(self.folder, "y.npy")


def load(spec: TwoFiles) -> Arrays:
    x, y = (np.load(file) for file in spec.files())
    return Arrays(x, y, x, y, 3)


def test_a_warm_worker_reads_again_when_any_file_changed(tmp_path: Path) -> None:
    spec = TwoFiles(folder=str(tmp_path))
    for number, file in enumerate(spec.files()):
        np.save(file, (GOOD["x_train"], GOOD["y_train"])[number])
    first = load_splits(spec, CPU)
    assert load_splits(spec, CPU) is first
    np.save(tmp_path / "y.npy", 2 - GOOD["y_train"])
    os.utime(tmp_path / "y.npy", ns=(1, 1))  # a clock too coarse to tell is not what is tested
    second = load_splits(spec, CPU)
    assert second is not first
    assert sorted((2 - second.train.y).tolist()) == sorted(first.train.y.tolist()) and second.digest != first.digest


class Given(Data):
    """Whatever a test puts into `GIVEN`."""

    implementation = "test_foreign_components:given"
    name: Literal["given"] = "given"
    case: str


GIVEN: dict[str, Any] = {}


def given(spec: Given) -> Arrays:
    return Arrays(**GOOD | GIVEN)


BAD = {
    "float pixels": ({"x_train": np.zeros((6, 4, 4, 1), np.float32)}, "x_train is float32, expected uint8"),
    "channels first": ({"x_test": np.zeros((3, 1, 4, 4), np.uint8)}, "x_test has shape"),
    "other sizes": ({"x_test": np.zeros((3, 5, 5, 1), np.uint8)}, "training images are"),
    "labels as floats": ({"y_train": np.zeros(6)}, "y_train is float64"),
    "too few labels": ({"y_test": np.arange(2)}, "y_test holds 2 labels for 3 images"),
    "label out of range": ({"y_train": np.arange(6)}, "y_train holds labels from 0 to 5, allowed: 0 to 2"),
    "no test labels": ({"y_test": None}, "y_test belong together"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_of_any_loader_are_checked(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_foreign_components as this  # the module that the worker imports; pytest's own may be another

    changes, message = BAD[case]
    monkeypatch.setattr(this, "GIVEN", changes)
    with pytest.raises(DataError, match=message):
        load_splits(Given(case=case), CPU)


def test_small_integers_as_labels_and_grey_images_without_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    import test_foreign_components as this

    changes = {"x_train": GOOD["x_train"][..., 0], "y_train": GOOD["y_train"].astype(np.int8)}
    monkeypatch.setattr(this, "GIVEN", changes)
    splits = load_splits(Given(case="small"), CPU)
    assert splits.shape == (1, 4, 4) and splits.train.y.dtype == torch.int64
    assert sorted(splits.train.y.tolist()) == [0, 0, 1, 1, 2, 2]


def test_what_a_worker_cannot_read_is_a_failure_on_record(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    text = trial("at").model_dump_json().replace('"name":"at"', '"name":"elsewhere"')
    with pytest.raises(RuntimeError, match=r"unknown method 'elsewhere'.*; every machine needs the packages"):
        drain(assigned_steps(text, Evaluation().model_dump_json(), folder))
    records = Journal(folder).records
    tags = {record.key: record.text for record in records if record.kind == "tag"}
    assert tags["error_class"] == "code_error" and "unknown method 'elsewhere'" in tags["error"]
    assert [record.text for record in records if record.kind == "state"] == ["failed"]
    assert "unknown method 'elsewhere'" in folder.read("error.txt").decode()


def test_what_it_can_read_runs(tmp_path: Path) -> None:
    spec = trial("standard", epochs=1)
    measure = {"name": "robustness", "attack": {"steps": 1}, "test_examples": 20, "train_examples": 20}
    evaluation = Evaluation(measures=[measure])
    steps = assigned_steps(spec.model_dump_json(), evaluation.model_dump_json(), Folder(str(tmp_path / "a")))
    assert drain(steps) == run_trial(spec, evaluation, Folder(str(tmp_path / "b")))


class Fading(Method):
    """Cross-entropy divided by the number of steps taken."""

    implementation = "test_foreign_components:FadingTraining"
    weight_perturbable = True
    name: Literal["fading"] = "fading"


class FadingTraining(Standard):
    def __init__(self, spec: Fading) -> None:
        self.steps = 0

    def attack(self, *parts: Any) -> torch.Tensor:
        self.steps += 1
        return super().attack(*parts)

    def loss(self, *parts: Any) -> Loss:
        found = super().loss(*parts)
        return found._replace(value=found.value / self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


@pytest.fixture
def fading() -> Iterator[None]:
    METHODS.register(Fading)
    yield
    METHODS._registered.pop("fading")


@pytest.mark.parametrize("method", ["fading", {"name": "awp", "over": "fading"}], ids=["alone", "under awp"])
def test_a_method_with_state_goes_on_with_it(method: Any, fading: None, tmp_path: Path) -> None:
    spec = trial(method, epochs=2)
    whole = Trainer(spec, digits(), None, CPU)
    drain(whole.run())
    stopped = Trainer(spec, digits(), Folder(str(tmp_path)), CPU)
    run = stopped.run()
    for _ in range(6):
        next(run)
    run.close()
    again = Trainer(spec, digits(), Folder(str(tmp_path)), CPU)
    assert (again.epoch, again.next_batch) == (1, 1)
    drain(again.run())
    assert weights_digest(again.model) == weights_digest(whole.model)
