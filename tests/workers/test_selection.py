"""Early stopping and kept epochs: the right networks are kept, and a stop changes nothing."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.spec.measures import Robustness
from orchestrator.spec.sweep import Evaluation, Trial
from tests.workers.toys import CPU, digits, trial
from workers import layout
from workers.failures import StorageError
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.seeding import seed_of
from workers.storage import Folder
from workers.training import Trainer, weights_digest
from workers.trial import run_trial, trial_steps

EPOCHS = 6
STOPPING = {"every": 1, "examples": 50, "attack": {"steps": 3, "step_size": 0.05}}
MEASURES = Evaluation(
    measures=(Robustness(attack={"steps": 2, "step_size": 0.05}, train_examples=50, test_examples=50),),  # type: ignore[arg-type]
    checkpoints=("last", "best", "kept"),
)


def stopping_trial(**training: Any) -> Trial:
    """Its fifth epoch is the best: of the same robust error as the sixth, with a smaller robust loss."""
    return trial(lr=0.2, seed=1, early_stopping=STOPPING, **{"epochs": EPOCHS, **training})


def epochs_by_hand(spec: Trial) -> list[dict[str, Any]]:
    """Every epoch's network, in a run that keeps nothing, judged with a loop of our own."""
    plain = spec.model_copy(
        update={"training": spec.training.model_copy(update={"early_stopping": None, "keep_every": None})}
    )
    trainer = Trainer(plain, digits(), None, CPU)
    stopping = spec.training.early_stopping
    assert stopping is not None
    images, attack = digits().validation.first(50), stopping.attack.resolve(spec.training.attack)
    found = []
    for progress in trainer.run():
        if progress.loss is None:
            continue
        model = copy.deepcopy(trainer.model)
        robust = robust_examples(model, images, attack, 17, seed_of(spec.seed, "validation"))
        wrong = robust.wrong | clean_examples(model, images, 17).wrong
        found.append(
            {
                "error": sum(map(bool, wrong)) / len(wrong),
                "loss": robust.mean_loss(),
                "weights": weights_digest(model),
            }
        )
    return found


def chosen(found: list[dict[str, Any]]) -> int:
    return min(range(len(found)), key=lambda i: (found[i]["error"], found[i]["loss"]))


def test_the_best_epoch_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    spec = stopping_trial()
    found = epochs_by_hand(spec)
    best = chosen(found)
    assert best + 1 < EPOCHS and len({one["error"] for one in found}) > 1, "the test says something only then"
    trainer = Trainer(spec, digits(), Folder(str(tmp_path)), CPU)
    for _ in trainer.run():
        pass
    assert weights_digest(trainer.model) == found[-1]["weights"], "looking changes nothing"
    assert trainer.selection.best is not None
    assert trainer.selection.best.epoch == best + 1
    assert trainer.selection.best.robust_error == pytest.approx(found[best]["error"])
    assert trainer.selection.best.robust_loss == pytest.approx(found[best]["loss"], rel=1e-6)
    trainer.model.load_state_dict(trainer.selection.weights(best + 1))
    assert weights_digest(trainer.model) == found[best]["weights"]
    assert trainer.selection.kept() == [best + 1], "networks that were the best for a while are removed"


@pytest.mark.parametrize("batch", [2, 4, 11, 23])
def test_stopped_anywhere_the_selection_is_the_same(tmp_path: Path, batch: int) -> None:
    """A generator closed after any step, also in the middle of the look at the validation images."""
    spec = stopping_trial(keep_every=2)
    whole = Trainer(spec, digits(), Folder(str(tmp_path / "whole")), CPU)
    for _ in whole.run():
        pass
    while True:
        trainer = Trainer(spec, digits(), Folder(str(tmp_path / "stopped")), CPU)
        steps = trainer.run()
        for _ in range(batch):
            if next(steps, None) is None:
                break
        else:
            steps.close()
            continue
        break
    assert trainer.finished
    assert trainer.selection.best == whole.selection.best
    assert trainer.selection.kept() == whole.selection.kept() == sorted({2, 4, whole.selection.best.epoch})  # type: ignore[union-attr]
    for epoch in whole.selection.kept():
        ours, theirs = trainer.selection.weights(epoch), whole.selection.weights(epoch)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_every_second_epoch_and_the_last_are_looked_at(tmp_path: Path) -> None:
    spec = trial(early_stopping={**STOPPING, "every": 2}, epochs=5)
    run_trial(spec, MEASURES, Folder(str(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["key"] == "validation/robust_error"] == [2, 4, 5]


def test_averaged_weights_are_what_is_judged_and_kept() -> None:
    spec = trial(regularizers=[{"name": "weight_averaging", "decay": 0.9}], keep_every=3, epochs=5)
    trainer = Trainer(spec, digits(), None, CPU)
    kept = None
    for progress in trainer.run():
        if progress.loss is not None and progress.epoch == 3:
            kept = copy.deepcopy(trainer.regularizers[0][1].average)
    assert kept is not None
    state = trainer.selection.weights(3)
    names = [name for name, _ in trainer.model.named_parameters()]
    assert all(torch.equal(state[name], average) for name, average in zip(names, kept, strict=True))


def test_each_network_has_its_values(tmp_path: Path) -> None:
    spec = stopping_trial(keep_every=4)
    values = run_trial(spec, MEASURES, Folder(str(tmp_path)))
    best = chosen(epochs_by_hand(spec)) + 1
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    recorded = {(line["key"], line["step"]): line["value"] for line in lines if line["kind"] == "metric"}
    assert values["best/epoch"] == best
    measure, expected = MEASURES.measures[0], {}
    trainer = Trainer(spec, digits(), Folder(str(tmp_path / "checkpoints")), CPU)
    for name, epoch in (("", EPOCHS), ("best/", best), ("", 4)):
        if epoch != EPOCHS:
            trainer.model.load_state_dict(trainer.selection.weights(epoch))
        found = measure.load()(trainer.model, trainer.splits, measure, attack=spec.training.attack, seed=0).values
        expected |= {(name + key, epoch): value for key, value in found.items()}
    assert {key: recorded[key] for key in expected} == expected
    assert recorded["best/robust_loss_test", best] != recorded["robust_loss_test", EPOCHS]
    assert [line["text"] for line in lines if line["key"] == "kept_epochs"] == ["4"]


def test_measured_again_only_what_is_missing(tmp_path: Path) -> None:
    spec, folder = stopping_trial(), Folder(str(tmp_path))
    run_trial(spec, Evaluation(measures=MEASURES.measures, checkpoints=("last",)), folder)
    steps = list(trial_steps(spec, MEASURES, folder))
    assert steps and {step.network for step in steps} == {"best"}  # type: ignore[union-attr]
    assert list(trial_steps(spec, MEASURES, folder)) == []


def test_a_lost_or_damaged_network_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    spec, folder = stopping_trial(), Folder(str(tmp_path))
    run_trial(spec, Evaluation(measures=MEASURES.measures, checkpoints=("last",)), folder)
    (snapshot,) = (tmp_path / layout.CHECKPOINTS / layout.SNAPSHOTS).glob("*.pt")
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(bytes(content))
    with pytest.raises(StorageError, match="rerun --from-scratch"):
        run_trial(spec, MEASURES, folder)


def test_kept_epochs_are_no_part_of_the_identity() -> None:
    assert trial(keep_every=2).trial_id == trial().trial_id != trial(early_stopping=STOPPING).trial_id
    assert list(trial(keep_every=2, epochs=6).training.kept_epochs) == [2, 4]
    assert list(trial(keep_every=4, epochs=6).training.kept_epochs) == [4]
    assert list(trial().training.kept_epochs) == []
