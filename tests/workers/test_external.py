"""Measuring a network from elsewhere: the same values as measuring it directly, kept and gone on with after a stop."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import ATTACK, CPU, DATA, digits, digits_network

from orchestrator.spec.external import External
from orchestrator.spec.measures import AverageFlatness, Robustness, value_keys
from orchestrator.spec.network_measures import Norms
from orchestrator.spec.sweep import Evaluation
from orchestrator.spec.training import Attack
from workers import layout
from workers.external import measuring_steps, recorded_steps
from workers.failures import StorageError
from workers.journal import Journal
from workers.loading import as_classifier
from workers.measurement import Measuring
from workers.measures.average_flatness import average_flatness
from workers.measures.robustness import robustness
from workers.models.classifier import Classifier
from workers.steps import drain
from workers.storage import Folder
from workers.training import weights_digest

FAST: Any = {"steps": 2, "step_size": 0.05}
EVALUATION = Evaluation(
    measures=(
        Robustness(attack=FAST, train_examples=20, test_examples=30),
        AverageFlatness(attack=FAST, examples=20, draws=3),
        Norms(),
    ),
    seed=5,
)
TRAINING = Attack(**ATTACK)  # type: ignore[arg-type]


def network() -> Classifier:
    return as_classifier(digits_network(seed=1), digits(), (), (), CPU)


def external(label: str = "theirs") -> External:
    return External(label=label, weights=weights_digest(network()), data=DATA, attack=TRAINING)  # type: ignore[arg-type]


def recorded(folder: Folder) -> Any:
    return recorded_steps(external(), network(), digits(), EVALUATION, folder)


def same(first: dict[str, float], second: dict[str, float]) -> bool:
    return first.keys() == second.keys() and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_values_are_those_of_the_measures() -> None:
    found = drain(measuring_steps(network(), digits(), EVALUATION, TRAINING))
    by_hand: dict[str, float] = {}
    for measure, settings in ((robustness, EVALUATION.measures[0]), (average_flatness, EVALUATION.measures[1])):
        by_hand |= measure(network(), digits(), settings, attack=TRAINING, seed=5).values
    assert {key: found.values[key] for key in by_hand} == by_hand
    assert list(found.values) == value_keys(EVALUATION.measures)
    assert found.flags == {
        "norms": ["initial_distance is not known: the network was not trained here", "not finite: initial_distance"]
    }


def test_what_is_kept_is_the_same(tmp_path: Path) -> None:
    alone = drain(measuring_steps(network(), digits(), EVALUATION, TRAINING))
    folder = Folder(str(tmp_path / "x"))
    found = drain(recorded(folder))
    assert same(found.values, alone.values) and found.flags == alone.flags
    assert json.loads(folder.read(layout.EXTERNAL)) == external().model_dump(mode="json")
    assert folder.exists(layout.TRIAL) is False  # it is no trial
    name = layout.arrays_name(layout.result_name(EVALUATION.measures[0], 5))
    assert np.load(io.BytesIO((folder / layout.MEASURES).read(name)))["robust_loss_test"].shape == (30,)


def test_the_journal_has_what_a_run_is_to_hold(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "x"))
    found = drain(recorded(folder))
    records = Journal(folder).records
    metrics = {record.key: record.value for record in records if record.kind == "metric"}
    assert same({key: metrics[key] for key in found.values}, found.values)
    cost = {key for key in metrics if key.startswith("cost/")}
    assert cost == {f"cost/{m.name}_{unit}" for m in EVALUATION.measures for unit in ("seconds", "passes")}
    tags = {record.key: record.text for record in records if record.kind == "tag"}
    assert tags["evaluation_id"] == EVALUATION.evaluation_id and tags["attempt"] == "1"
    assert tags["weights"] == weights_digest(network()) and tags["data_digest"] == digits().digest
    assert tags["flags/last/norms"].startswith("initial_distance is not known") and tags["flags/last/robustness"] == ""
    assert len([record for record in records if record.kind == "file"]) == 3
    assert [record.text for record in records if record.kind == "state"] == ["running", "finished"]


def test_nothing_is_measured_or_recorded_twice(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "x"))
    first = drain(recorded(folder))
    before = Journal(folder).records
    steps = recorded(folder)
    with pytest.raises(StopIteration) as stop:
        next(steps)  # no progress is to be shown: nothing is left to do
    assert same(stop.value.value.values, first.values)
    new = Journal(folder).records[len(before) :]
    assert {record.kind for record in new} == {"state", "tag"}


def test_a_stop_costs_one_part(tmp_path: Path) -> None:
    whole = drain(measuring_steps(network(), digits(), EVALUATION, TRAINING))
    folder = Folder(str(tmp_path / "x"))
    for stops in range(40):
        steps = recorded(folder)
        try:
            for _ in range(4):
                assert isinstance(next(steps), Measuring)
            steps.close()
            states = [record.text for record in Journal(folder).records if record.kind == "state"]
            assert states[-1] == "interrupted"
        except StopIteration as stop:
            assert stops > 3 and same(stop.value.values, whole.values)
            return
    raise AssertionError("it never came to its end")


def test_two_processes_do_not_measure_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.external.LOCK_SECONDS", 0.1)
    folder = Folder(str(tmp_path / "x"))
    with folder.lock(0.1), pytest.raises(StorageError, match="another process"):
        next(recorded(folder))


def test_the_id_is_that_of_label_weights_images_and_attack() -> None:
    own = external()
    assert own.external_id == external().external_id != external("other").external_id
    for change in (
        {"weights": "0" * 64},
        {"attack": TRAINING.model_copy(update={"eps": 0.2})},
        {"data": own.data.model_copy(update={"test_size": 50})},
    ):
        assert own.model_copy(update=change).external_id != own.external_id
    assert own.method == "external(label=theirs)"
    for label in ("", "two words", "a/b", "x" * 61, "-x"):
        with pytest.raises(ValueError, match="no plain label"):
            external(label)
