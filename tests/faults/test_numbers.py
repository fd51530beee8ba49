"""Numbers that go wrong in the middle: recorded with their class, not tried again by themselves; a rerun goes on.

A trial that was spoiled and then taken up again ends bit for bit as one that nothing happened to.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.spec.sweep import Evaluation, Trial
from workers.checkpoints import newest
from workers.failures import DivergedError, ErrorClass, classify
from workers.journal import Journal
from workers.storage import Folder
from workers.training import Trainer
from workers.trial import run_trial

ATTACK = {"steps": 1, "step_size": 0.05}
TRIAL = Trial.model_validate(
    {
        "data": {"name": "digits", "train_size": 60},
        "model": {"name": "small_preact_resnet", "width": 2},
        "training": {"epochs": 3, "batch_size": 20, "attack": {"eps": 0.1, **ATTACK}, "schedule": "constant"},
        "method": "at",
        "seed": 0,
    }
)
EVALUATION = Evaluation.model_validate(
    {"measures": [{"name": "robustness", "attack": ATTACK, "train_examples": 20, "test_examples": 20}]}
)


def spoil(value: float, batch: int) -> Callable[[Trainer], None]:
    """One weight after a step of the second epoch."""

    def act(trainer: Trainer) -> None:
        if (trainer.epoch, trainer.next_batch) == (1, batch):
            with torch.no_grad():
                next(iter(trainer.model.parameters())).view(-1)[0] = value

    return act


def run_out(trainer: Trainer) -> None:
    if (trainer.epoch, trainer.next_batch) == (1, 1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def infinite(trainer: Trainer) -> None:
    """As a loss that overflows."""
    if (trainer.epoch, trainer.next_batch) == (1, 1):
        trainer.sums += torch.inf


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], str]:
    return ended(Folder(str(tmp_path_factory.mktemp("undisturbed"))))


def ended(folder: Folder) -> tuple[dict[str, float], str]:
    values = run_trial(TRIAL, EVALUATION, folder)
    return values, next(r.text for r in reversed(Journal(folder).records) if r.key == "weights")


CASES: dict[str, tuple[Callable[[Trainer], None], ErrorClass, str]] = {
    "nan in a weight": (spoil(float("nan"), 0), ErrorClass.DIVERGED, "mean loss nan"),
    "inf in a weight": (spoil(float("inf"), 1), ErrorClass.DIVERGED, "mean loss nan"),
    "nan after the last step of an epoch": (spoil(float("nan"), 2), ErrorClass.DIVERGED, "weights that are not finite"),
    "a loss that is infinite": (infinite, ErrorClass.DIVERGED, "mean loss"),
    "memory of the GPU": (run_out, ErrorClass.OUT_OF_MEMORY, "CUDA out of memory"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_recorded_and_a_rerun_goes_on(
    name: str, undisturbed: tuple[dict[str, float], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, error_class, message = CASES[name]
    step = Trainer._step
    struck = []

    def disturbed(trainer: Trainer, number: int) -> None:
        step(trainer, number)
        if not struck:
            before = [p.detach().clone() for p in trainer.model.parameters()], trainer.sums.clone()
            try:
                act(trainer)
            except torch.OutOfMemoryError:
                struck.append(name)
                raise
            if not same(before, trainer):
                struck.append(name)

    folder = Folder(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", disturbed)
        with pytest.raises((DivergedError, torch.OutOfMemoryError)) as raised:
            run_trial(TRIAL, EVALUATION, folder)
    assert struck == [name]
    assert classify(raised.value) is error_class and not error_class.passing
    told = {record.key: record.text for record in Journal(folder).records if record.kind in {"tag", "state"}}
    assert (told["state"], told["error_class"]) == ("failed", error_class) and message in told["error"]
    state: Any = newest(folder / "checkpoints", torch.device("cpu"))
    assert state["epoch"] == 1 and all(bool(t.isfinite().all()) for t in state["model"].values())
    assert ended(folder) == undisturbed
    assert [r.step for r in Journal(folder).records if r.key == "train/loss"] == [1, 2, 3]


def same(before: tuple[list[torch.Tensor], torch.Tensor], trainer: Trainer) -> bool:
    weights: list[nn.Parameter] = list(trainer.model.parameters())
    return all(torch.equal(a, b) for a, b in zip(before[0], weights, strict=True)) and torch.equal(
        before[1], trainer.sums
    )
