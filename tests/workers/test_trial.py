"""One whole trial, run, run again, stopped, killed, failed: with neither Ray nor MLflow."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from processes import Child
from toys import CPU, digits, trial

from orchestrator.spec.data import Npz
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Evaluation, Trial
from workers import layout
from workers.data import splits as splits_module
from workers.failures import DataError, DivergedError, ErrorClass, classify
from workers.journal import Journal, Record
from workers.measurement import Measuring
from workers.steps import drain
from workers.storage import Folder
from workers.training import Progress, Trainer, weights_digest
from workers.trial import run_trial, trial_steps

TRIAL = trial("trades", [{"name": "label_noise", "rate": 0.2}], epochs=3)
ROBUSTNESS = {"name": "robustness", "attack": {"steps": 2}, "test_examples": 50, "train_examples": 50, "batch_size": 20}
AVERAGE = {"name": "average_flatness", "attack": {"steps": 2}, "draws": 2, "examples": 50}
WORST = {"name": "worst_flatness", "attack": {"steps": 2}, "restarts": 1, "epochs": 2, "xi": [0.01], "examples": 50}
EVALUATION = Evaluation(measures=[ROBUSTNESS, AVERAGE, WORST])

RUNS_ONE_AND_HANGS_IN_ANOTHER = """
import json, sys, time
from test_trial import EVALUATION, TRIAL
from workers.storage import Folder
from workers.training import Progress
from workers.trial import run_trial, trial_steps
values = run_trial(TRIAL, EVALUATION, Folder(sys.argv[1]))
print(json.dumps([values, sorted({"ray", "mlflow"} & set(sys.modules))]))
for step in trial_steps(TRIAL, EVALUATION, Folder(sys.argv[2])):
    if isinstance(step, Progress) and (step.epoch, step.batch) == (1, 2):
        print("in mid-epoch")
        time.sleep(600)
"""


def records(folder: Folder, kind: str) -> list[Record]:
    return [record for record in Journal(folder).records if record.kind == kind]


def tags(folder: Folder) -> dict[str, str]:
    return {record.key: record.text for record in records(folder, "tag")}


def states(folder: Folder) -> list[str]:
    return [record.text for record in records(folder, "state")]


def files(path: Path, sub: str) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (path / sub).iterdir()}


class Made(NamedTuple):
    """What a process of its own made: a trial run undisturbed, and one that it was killed in, in mid-epoch."""

    path: Path
    values: dict[str, float]
    engines: list[str]
    killed: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path, killed = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("killed")
    with Child(RUNS_ONE_AND_HANGS_IN_ANOTHER, str(path), str(killed)) as child:
        values, engines = json.loads(child.line())
        assert child.line() == "in mid-epoch"
        child.kill()
    return Made(path, values, engines, killed)


@pytest.fixture
def finished(made: Made) -> tuple[Path, dict[str, float]]:
    """Folder and values of the undisturbed trial."""
    return made.path, made.values


def test_neither_ray_nor_mlflow_is_imported(made: Made) -> None:
    assert made.engines == []


def test_a_trial_from_start_to_end(finished: tuple[Path, dict[str, float]]) -> None:
    path, values = finished
    folder = Folder(str(path))
    assert set(values) == set(value_keys(EVALUATION.measures))
    assert all(np.isfinite(value) for value in values.values())
    assert states(folder) == ["running", "finished"]
    recorded = {(record.key, record.step): record.value for record in records(folder, "metric")}
    assert [recorded["train/lr", epoch] for epoch in (1, 2, 3)] == [0.05] * 3
    assert recorded["train/loss", 3] < recorded["train/loss", 1]
    assert {key: recorded[key, 3] for key in values} == values
    seconds = sum(recorded["train/seconds", epoch] for epoch in (1, 2, 3))
    assert recorded["cost/train_seconds", 3] == pytest.approx(seconds)
    known = tags(folder)
    assert known["data_digest"] == digits().digest and known["evaluation_id"] == EVALUATION.evaluation_id
    assert known["attempt"] == "1" and known["error_class"] == ""
    written = json.loads(folder.read(layout.TRIAL))
    assert Trial.model_validate(written).trial_id == TRIAL.trial_id
    trainer = Trainer(TRIAL, digits(), None, CPU)  # the trial's weights are those of training alone
    drain(trainer.run())
    assert known["weights"] == weights_digest(trainer.model)


def test_running_it_again_trains_and_measures_nothing(
    finished: tuple[Path, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = finished
    folder = Folder(str(path))
    before = records(folder, "metric"), files(path, layout.CHECKPOINTS), files(path, layout.MEASURES)
    ended = records(folder, "state"), tags(folder)
    for name in ("robustness", "average_flatness", "worst_flatness"):
        monkeypatch.setattr(f"workers.measures.{name}.{name}", None)  # nothing may be called
    steps = trial_steps(TRIAL, EVALUATION, folder)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == values
    assert (records(folder, "metric"), files(path, layout.CHECKPOINTS), files(path, layout.MEASURES)) == before
    # a worker that died after the end, before it was heard of, is replaced: it is no attempt, whatever becomes of it
    assert (records(folder, "state"), tags(folder)) == ended


def test_adding_a_measure_runs_only_that_measure(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    import shutil

    path, values = finished
    shutil.copytree(path, tmp_path / "copy")
    folder, more = Folder(str(tmp_path / "copy")), {**AVERAGE, "xi": [0.1], "draws": 1}
    evaluation = Evaluation(measures=[ROBUSTNESS, AVERAGE, WORST, {**more, "split": "train"}])
    before, checkpoints = records(folder, "metric"), files(tmp_path / "copy", layout.CHECKPOINTS)
    seen: list[Any] = []
    steps = trial_steps(TRIAL, evaluation, folder)
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            found = stop.value
            break
    assert seen and all(isinstance(step, Measuring) and step.measure == "average_flatness" for step in seen)
    new = {"average_flatness_xi0.1_train", "average_flatness_xi0.1_train_se"}
    assert set(found) == set(values) | new and {key: found[key] for key in values} == values
    added = records(folder, "metric")[len(before) :]
    costs = {"cost/average_flatness_seconds", "cost/average_flatness_passes"}
    assert {record.key for record in added} - costs == new
    assert files(tmp_path / "copy", layout.CHECKPOINTS) == checkpoints
    assert tags(folder)["evaluation_id"] == evaluation.evaluation_id
    # another seed of evaluation is another result, beside the old one
    other = run_trial(TRIAL, Evaluation(measures=[AVERAGE], seed=1), folder)
    assert other["average_flatness_xi0.5"] != values["average_flatness_xi0.5"]
    assert len([name for name in files(tmp_path / "copy", layout.MEASURES) if name.endswith(".json")]) == 5


def test_killed_in_mid_epoch_it_ends_with_the_same_bits(made: Made) -> None:
    path, values, folder = made.path, made.values, Folder(str(made.killed))
    assert states(folder) == ["running"]
    seen = []
    steps = trial_steps(TRIAL, EVALUATION, folder)
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            found = stop.value
            break
    first = seen[0]
    assert isinstance(first, Progress) and (first.epoch, first.batch) == (1, 1)  # not from the start
    assert found == values
    assert tags(folder)["weights"] == tags(Folder(str(path)))["weights"]
    assert tags(folder)["attempt"] == "2" and states(folder) == ["running", "running", "finished"]

    def losses(of: Folder) -> list[tuple[int, float]]:
        return [(r.step, r.value) for r in records(of, "metric") if r.key in {"train/loss", "train/error"}]

    assert losses(folder) == losses(Folder(str(path)))  # every epoch once, with the same numbers


def test_stopped_it_saves_says_so_and_goes_on(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    path, values = finished
    folder = Folder(str(tmp_path))
    steps = trial_steps(TRIAL, EVALUATION, folder)
    for _ in range(7):
        next(steps)
    steps.close()
    assert states(folder) == ["running", "interrupted"]
    assert [layout.parse_checkpoint(name)[:2] for name in (folder / layout.CHECKPOINTS).names()] == [(1, 0), (1, 2)]  # type: ignore[index]
    assert run_trial(TRIAL, EVALUATION, folder) == values
    assert tags(folder)["weights"] == tags(Folder(str(path)))["weights"]


@pytest.mark.parametrize("during", ["robustness", "average_flatness", "worst_flatness"])
def test_stopped_while_measuring_it_keeps_what_is_measured(
    during: str, finished: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, values = finished
    folder = Folder(str(tmp_path))
    steps = trial_steps(TRIAL, EVALUATION, folder)
    while True:
        step = next(steps)
        if isinstance(step, Measuring) and step.measure == during:
            break
    next(steps)
    steps.close()
    names = [measure.name for measure in EVALUATION.measures]
    done = names[: names.index(during)]
    assert {name.split("-")[0] for name in (folder / layout.MEASURES).names() if name.endswith(".json")} == set(done)
    for name in done:
        monkeypatch.setattr(f"workers.measures.{name}.{name}", None)  # may not be called again
    assert run_trial(TRIAL, EVALUATION, folder) == values


def test_divergence(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(DivergedError, match=r"epoch 0.*loss (nan|inf|[\d.e+]+).*1e\+06") as caught:
        run_trial(trial("at", lr=1e6, epochs=3), EVALUATION, folder)
    assert classify(caught.value) is ErrorClass.DIVERGED
    assert states(folder) == ["running", "failed"]
    known = tags(folder)
    assert known["error_class"] == "diverged" and str(caught.value) in known["error"]
    assert "DivergedError" in folder.read(layout.ERROR).decode()
    assert "weights" not in known and records(folder, "metric") == []
    last = Journal(folder).records[-1]
    assert (last.kind, last.text) == ("state", "failed")


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    """A memory that fails tips a bit: the trial fails, and its next attempt gives what it would have given."""
    spec, folder = trial("at", epochs=2), Folder(str(tmp_path / "a"))
    expected = drain(trial_steps(spec, None, Folder(str(tmp_path / "b"))))
    for stopped in (True, False):  # in mid-epoch, and at its end
        trainer = Trainer(spec, splits_module.load_splits(spec.data, CPU), folder / layout.CHECKPOINTS, CPU)
        steps = trainer.run()
        next(steps)
        next(trainer.model.parameters()).data.view(-1)[3] = float("nan")
        if stopped:
            steps.close()
        else:
            with pytest.raises(DivergedError, match="epoch 0"):
                drain(steps)
        assert (folder / layout.CHECKPOINTS).names() == []
    # after an epoch's last step its loss says nothing of the weights
    trainer = Trainer(spec, trainer.splits, folder / layout.CHECKPOINTS, CPU)
    steps = trainer.run()
    while next(steps).batch < trainer.steps_per_epoch:
        pass
    next(trainer.model.parameters()).data.view(-1)[3] = float("inf")
    with pytest.raises(DivergedError, match="weights that are not finite"):
        drain(steps)
    assert (folder / layout.CHECKPOINTS).names() == []
    assert drain(trial_steps(spec, None, folder)) == expected
    assert tags(folder)["weights"] == tags(Folder(str(tmp_path / "b")))["weights"]


def test_an_attack_that_leaves_the_box_is_noticed(tmp_path: Path) -> None:
    spec, folder = trial("at", epochs=2), Folder(str(tmp_path))
    trainer = Trainer(spec, splits_module.load_splits(spec.data, CPU), folder, CPU)
    attack = trainer.method.attack
    trainer.method.attack = lambda *given: attack(*given) * 1.001 + 0.001  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the attack of 'at' made inputs from 0.* to 1\.00\d+: images are in"):
        drain(trainer.run())
    assert folder.names() == []


def test_changed_data_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), "y_train": np.arange(60) % 3,
        "x_test": rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8), "y_test": np.arange(20) % 3,
    }  # fmt: skip
    np.savez(tmp_path / "set.npz", **arrays)
    spec = trial("standard", epochs=1).model_copy(update={"data": Npz(path=str(tmp_path / "set.npz"))})
    evaluation, folder = Evaluation(measures=[ROBUSTNESS]), Folder(str(tmp_path / "trial"))
    values = run_trial(spec, evaluation, folder)
    arrays["x_test"][3, 2, 2, 0] ^= 1  # one bit of one pixel
    np.savez(tmp_path / "set.npz", **arrays)
    splits_module._cached.cache_clear()  # as in another worker
    with pytest.raises(DataError, match="has changed") as caught:
        run_trial(spec, evaluation, folder)
    assert classify(caught.value) is ErrorClass.BAD_DATA
    assert tags(folder)["error_class"] == "bad_data" and states(folder)[-1] == "failed"
    arrays["x_test"][3, 2, 2, 0] ^= 1
    np.savez(tmp_path / "set.npz", **arrays)
    splits_module._cached.cache_clear()
    assert run_trial(spec, evaluation, folder) == values
    assert tags(folder)["error_class"] == "" and states(folder)[-1] == "finished"


def test_missing_data_are_a_failure_with_the_file(tmp_path: Path) -> None:
    spec = trial("standard").model_copy(update={"data": Npz(path=str(tmp_path / "none.npz"))})
    folder = Folder(str(tmp_path / "trial"))
    with pytest.raises(DataError, match=r"none\.npz"):
        run_trial(spec, EVALUATION, folder)
    assert tags(folder)["error_class"] == "bad_data" and "none.npz" in tags(folder)["error"]


def test_two_seeds_are_two_networks(tmp_path: Path) -> None:
    evaluation = Evaluation(measures=[ROBUSTNESS])
    found = []
    for seed in (0, 1):
        folder = Folder(str(tmp_path / str(seed)))
        run_trial(trial("standard", seed=seed, epochs=1), evaluation, folder)
        found.append(tags(folder)["weights"])
    assert found[0] != found[1]


def test_a_failure_to_record_does_not_hide_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the network diverges: what is raised is still the divergence."""
    folder, real = Folder(str(tmp_path)), os.fsync
    steps = trial_steps(trial("at", lr=1e6, epochs=3), EVALUATION, folder)
    next(steps)

    def full(descriptor: int) -> None:
        real(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DivergedError):
        drain(steps)


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_no_bits(
    finished: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    path, values = finished
    folder = Folder(str(tmp_path))
    steps = trial_steps(TRIAL, EVALUATION, folder)
    for _ in range(12):
        next(steps)
    steps.close()
    checkpoints = folder / layout.CHECKPOINTS
    newest = checkpoints.names()[-1]
    content = bytearray(checkpoints.read(newest))
    content[len(content) // 2] ^= 16
    checkpoints.write(newest, bytes(content))
    steps = trial_steps(TRIAL, EVALUATION, folder)
    first = next(steps)
    assert isinstance(first, Progress) and first.epoch == 2 and first.batch == 1
    found = drain(steps)
    assert found == values and tags(folder)["weights"] == tags(Folder(str(path)))["weights"]
