"""The training loop: schedules, optimizers, gradient clipping, what is random, and what a checkpoint must fit."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from toys import CPU, PLAIN, digits, regularizer, trial

from orchestrator.spec.sweep import Trial
from orchestrator.spec.training import SCHEDULES
from workers import checkpoints, layout
from workers.labels import Labels
from workers.seeding import generator
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest


@pytest.mark.parametrize(
    ("schedule", "epochs", "table"),
    [
        ({"name": "cosine"}, 8, {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 6: (1 - math.sqrt(0.5)) / 2, 8: 0}),
        ({"name": "cosine", "end": 0.2}, 3, {0: 1, 1: 0.8, 1.5: 0.6, 2: 0.4, 3: 0.2}),
        ({"name": "cyclic"}, 10, {0: 0, 1: 0.25, 2: 0.5, 4: 1, 5.5: 0.75, 7: 0.5, 10: 0}),
        ({"name": "cyclic", "period": 30, "peak": 0.5}, 60, {0: 0, 7.5: 0.5, 15: 1, 30: 0, 45: 1, 52.5: 0.5, 60: 0}),
        ({"name": "cyclic", "period": 2.5, "peak": 0.2}, 5, {0.25: 0.5, 0.5: 1, 1.5: 0.5, 3: 1, 5: 0}),
    ],
    ids=str,
)
def test_schedule_values(schedule: Any, epochs: int, table: dict[float, float]) -> None:
    found = SCHEDULES.parse(schedule)
    assert [found.factor(epoch, epochs) for epoch in table] == pytest.approx(list(table.values()), abs=1e-12)


def test_schedule_acts_on_every_batch() -> None:
    trainer = Trainer(trial("standard", schedule="cyclic", epochs=5, lr=0.2), digits(), None, CPU)
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    drain(trainer.run())
    expected = [0.2 * (i / 8 if i < 8 else (20 - i) / 12) for i in range(20)]  # 4 batches each; the peak at epoch 2
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_gradient_clipping_bounds_the_whole_norm(bound: float) -> None:
    """One step of plain SGD moves the weights by lr * min(||g||, bound), along -g."""
    trainer = Trainer(trial("standard", optimizer=PLAIN, clip_gradient=bound), digits(), None, CPU)
    twin = copy.deepcopy(trainer.model).train()
    seen: list[Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    )
    next(trainer.run())
    x, y = trainer.batches.batch(0, 0)
    F.cross_entropy(twin(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    length = float(gradient.norm())
    assert 1e-3 < length < 1e3
    torch.testing.assert_close(seen[0], gradient * min(1.0, bound / length), rtol=1e-3, atol=1e-8)
    assert float(seen[0].norm()) == pytest.approx(min(length, bound), rel=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("overridden", [False, True])
def test_first_steps_of_adam_by_hand(name: str, overridden: bool) -> None:
    """Two steps of the papers' formulas, with the gradients that the training saw."""
    decay, lr, betas = 0.3, 0.004, (0.8, 0.95)
    optimizer = {"name": name, "lr": lr, "betas": betas, "weight_decay": 0.1 if overridden else decay}
    parts = [{"name": "weight_decay", "value": decay}] if overridden else []
    trainer = Trainer(trial("standard", parts, optimizer=optimizer), digits(), None, CPU)
    weights = [p.detach().double().numpy().copy() for p in trainer.model.parameters()]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    seen: list[list[np.ndarray]] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append([p.grad.double().numpy() for p in trainer.model.parameters() if p.grad is not None])
    )
    run = trainer.run()
    for step in (1, 2):
        next(run)
        for k, gradient in enumerate(seen[-1]):
            w = weights[k]
            g = gradient + decay * w if name == "adam" else gradient
            first[k] = betas[0] * first[k] + (1 - betas[0]) * g
            second[k] = betas[1] * second[k] + (1 - betas[1]) * g**2
            change = first[k] / (1 - betas[0] ** step) / (np.sqrt(second[k] / (1 - betas[1] ** step)) + 1e-8)
            weights[k] = w - lr * change - (lr * decay * w if name == "adamw" else 0)
        for parameter, expected in zip(trainer.model.parameters(), weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-3, atol=2e-6)


def test_transforms_see_their_own_generator() -> None:
    """A trial's batch is transformed as a function of (seed, name, epoch, batch)."""
    trainer = Trainer(trial("standard", ["mixup"]), digits(), None, CPU)
    seen: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    next(trainer.run())
    x, y = trainer.batches.batch(0, 0)
    expected, _ = regularizer("mixup").transform(x, Labels(y, 10), generator(CPU, 0, "mixup", 0, 0))
    assert torch.equal(seen[0], expected)


def test_a_checkpoint_from_before_there_were_stateful_parts_goes_on(tmp_path: Path) -> None:
    """Trials that were trained before keep their ids, so their checkpoints must still open."""
    spec, folder = trial("at", [{"name": "label_smoothing", "amount": 0.1}], epochs=2), Folder(str(tmp_path))
    whole = Trainer(spec, digits(), None, CPU)
    drain(whole.run())
    first = Trainer(spec, digits(), folder, CPU)
    run = first.run()
    for _ in range(2):
        next(run)
    old = first._state()
    del old["parts"]
    checkpoints.save(folder, first.epoch, first.next_batch, old)
    second = Trainer(spec, digits(), folder, CPU)
    assert (second.epoch, second.next_batch) == (0, 2)
    drain(second.run())
    assert weights_digest(second.model) == weights_digest(whole.model)


def test_a_checkpoint_of_another_trial_is_refused(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    Trainer(trial("at"), digits(), folder, CPU).save()
    other: Trial = trial("trades")
    with pytest.raises(ValueError, match=other.trial_id):
        Trainer(other, digits(), folder, CPU)


def test_the_seed_matters() -> None:
    found = set()
    for seed in (0, 1):
        trainer = Trainer(trial("at", seed=seed, epochs=1), digits(), None, CPU)
        drain(trainer.run())
        found.add(weights_digest(trainer.model))
    assert len(found) == 2


def test_checkpoints_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a batch takes 40 s: a checkpoint each minute, from which a lost trial goes on bit for bit."""
    now, folder = [0.0], Folder(str(tmp_path))
    monkeypatch.setattr("workers.training.time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: 0.0))
    often, plain = trial(epochs=1, checkpoint_minutes=1), Trainer(trial(epochs=1), digits(), None, CPU)
    drain(plain.run())
    steps, seen = Trainer(often, digits(), folder, CPU).run(), []
    for batch in (1, 2, 3, 4):
        now[0] = 40.0 * batch
        next(steps)
        seen.append([found[:2] for found in map(layout.parse_checkpoint, folder.names()) if found])
    assert seen == [[], [(0, 2)], [(0, 2)], [(0, 2)]]  # after the last batch the epoch's end saves
    lost = Trainer(often, digits(), folder, CPU)
    assert lost.next_batch == 2
    drain(lost.run())
    assert weights_digest(lost.model) == weights_digest(plain.model)
