"""Entropy-SGD against its formulas step by step in float64, and in training."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from toys import CPU, PLAIN, conv_net, digits, regularizer, seeded, trial

from workers.methods.base import Stateful
from workers.regularizers.base import FinalWeights, StepPolicy
from workers.seeding import seed_of
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest

SHAPES = ((2, 3), (4,))


class Bowl(nn.Module):
    """1/2 sum a (w - c)^2, with its own a and c for each of ten weights in two tensors."""

    def __init__(self) -> None:
        super().__init__()
        draw = [[torch.rand(s, generator=seeded(k), dtype=torch.float64) for s in SHAPES] for k in range(3)]
        self.weights = nn.ParameterList(draw[0])
        self.a, self.c = draw[1], [4 * c - 2 for c in draw[2]]

    def forward(self) -> Tensor:
        parts = zip(self.weights, self.a, self.c, strict=True)
        return torch.stack([(a * (w - c) ** 2).sum() / 2 for w, a, c in parts]).sum()

    def take_gradients(self) -> None:
        self.zero_grad()
        self().backward()


def flat(tensors: Any) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("schedule", [False, True])
def test_steps_on_a_quadratic_by_hand(noise: float, steps: int, momentum: float, schedule: bool) -> None:
    gamma, alpha, inner, decay, outer_momentum = 0.3, 0.6, 0.2, 0.05, 0.7
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, outer_momentum, weight_decay=decay, nesterov=True)
    found = regularizer(
        "entropy_sgd", steps=steps, gamma=gamma, noise=noise, alpha=alpha, inner_lr=inner, inner_momentum=momentum,
        inner_schedule=schedule,
    )  # fmt: skip
    w, a, c = flat(model.parameters()), flat(model.a), flat(model.c)
    outer_velocity: np.ndarray | float = 0.0
    for cycle in range(3):
        start, mean, velocity = w.copy(), w.copy(), np.zeros_like(w)
        for index in range(steps):
            factor = [1.0, 0.5, 0.1][cycle]
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * factor
            model.take_gradients()
            torch.manual_seed(10 * cycle + index)
            stepped = found.step(model, optimizer)
            torch.manual_seed(10 * cycle + index)
            eta = flat([torch.randn(shape, dtype=torch.float64) for shape in SHAPES])
            rate = inner * factor if schedule else inner
            gradient = a * (w - c) + decay * w
            velocity = momentum * velocity + gradient
            pull = gamma * (w - start)
            w = w - rate * (gradient + momentum * velocity + pull) + noise * math.sqrt(2 * rate) * eta
            mean = alpha * mean + (1 - alpha) * w
            assert stepped is (index == steps - 1)
            if not stepped:
                np.testing.assert_allclose(flat(model.parameters()), w, rtol=1e-12)
        gradient = start - mean + decay * start
        outer_velocity = outer_momentum * outer_velocity + gradient
        w = start - 0.5 * factor * (gradient + outer_momentum * outer_velocity)
        np.testing.assert_allclose(flat(model.parameters()), w, rtol=1e-12)


def test_the_walk_is_pulled_back_to_where_it_began() -> None:
    """Without a loss w' = w stays; with a strong pull a displaced walk halves its distance: 1 - inner_lr * gamma."""
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = regularizer("entropy_sgd", steps=9, gamma=5.0, noise=0.0, inner_lr=0.1, inner_momentum=0.0)
    origin = flat(model.parameters())
    for index in range(4):
        for weight in model.weights:
            weight.grad = torch.full_like(weight, 1.0 if index == 0 else 0.0)
        found.step(model, optimizer)
        np.testing.assert_allclose(flat(model.parameters()), origin - 0.1 * 0.5**index, rtol=1e-12)


def test_the_noise_is_normal_with_the_variance_of_langevins_equation() -> None:
    model = nn.Linear(100, 100, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    found = regularizer("entropy_sgd", steps=2, noise=0.3, inner_lr=0.02)
    torch.manual_seed(0)
    found.step(model, torch.optim.SGD(model.parameters(), 0.1))
    moved = (model.weight.detach() - before).flatten().numpy()
    assert scipy.stats.kstest(moved, "norm", args=(0, 0.3 * math.sqrt(2 * 0.02))).pvalue > 1e-3


def test_a_weight_without_gradient_stays() -> None:
    model = conv_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    found = regularizer("entropy_sgd", steps=2)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        for name, parameter in model.named_parameters():
            parameter.grad = None if name.startswith("4") else torch.ones_like(parameter)
        found.step(model, optimizer)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]) is name.startswith("4"), name


def test_finish_gives_the_weights_that_the_walk_goes_round() -> None:
    model, found = Bowl(), regularizer("entropy_sgd", steps=3)
    assert all(isinstance(found, place) for place in (StepPolicy, FinalWeights, Stateful))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for index in range(8):  # two whole walks, and two steps of a third
        model.take_gradients()
        if index == 6:
            origin = flat(model.parameters())
        found.step(model, optimizer)
    inside = flat(model.parameters())
    assert np.abs(inside - origin).max() > 1e-3
    looked_at = copy.deepcopy(model)
    found.finish(looked_at, None, 1)
    np.testing.assert_array_equal(flat(looked_at.parameters()), origin)
    np.testing.assert_array_equal(flat(model.parameters()), inside)
    model.take_gradients()
    found.step(model, optimizer)  # the third walk ends as if nobody had looked
    ended = flat(model.parameters())
    found.finish(model, None, 1)
    np.testing.assert_array_equal(flat(model.parameters()), ended)


def test_without_a_walk_to_speak_of_it_is_the_optimizer_with_a_smaller_rate() -> None:
    """L = 1, alpha = gamma = noise = 0: w - mu = inner_lr * g."""
    walk = {"name": "entropy_sgd", "steps": 1, "alpha": 0, "gamma": 0, "noise": 0, "inner_lr": 0.4, "inner_momentum": 0}
    plain = Trainer(trial("at", optimizer={**PLAIN, "lr": 0.02}, epochs=2), digits(), None, CPU)
    other = Trainer(trial("at", [walk], optimizer={**PLAIN, "lr": 0.05}, epochs=2), digits(), None, CPU)
    for trainer in (plain, other):
        drain(trainer.run())
    for a, b in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


ENTROPY = {"name": "entropy_sgd", "steps": 5, "inner_lr": 1.0, "noise": 0.01}


def outer_weights(trainer: Trainer) -> list[list[Tensor]]:
    """Filled with the weights after each step of the optimizer."""
    seen: list[list[Tensor]] = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: seen.append([p.detach().clone() for p in trainer.model.parameters()])
    )
    return seen


def test_training_that_ends_in_a_walk_ends_at_its_beginning(tmp_path: Path) -> None:
    """3 epochs of 4 batches are 2 walks of 5 steps and 2 steps more."""
    spec, folder = trial("at", [ENTROPY], epochs=3), Folder(str(tmp_path))
    trainer = Trainer(spec, digits(), folder, CPU)
    seen, drawn = outer_weights(trainer), 0
    for progress in trainer.run():
        drawn += progress.batch > 0
    assert drawn == 12 and len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), seen[1], strict=True))
    assert weights_digest(Trainer(spec, digits(), folder, CPU).model) == weights_digest(trainer.model)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages_and_clipping_are_those_of_the_optimizers_steps(kind: str) -> None:
    averaging = {"name": "weight_averaging", "kind": kind, "decay": 0.5}
    clipping = {"name": "weight_clipping", "bound": 0.2}
    trainer = Trainer(trial("at", [averaging, ENTROPY, clipping], epochs=4), digits(), None, CPU)
    clipped: list[list[Tensor]] = []
    regularizer = dict(trainer.regularizers)["weight_clipping"]
    clip = regularizer.after_step

    def watched(model: nn.Module, progress: float) -> None:
        clip(model, progress)
        clipped.append([p.detach().double() for p in model.parameters()])

    regularizer.after_step = watched
    initial = [p.detach().double() for p in trainer.model.parameters()]
    drain(trainer.run())
    assert len(clipped) == 3  # 16 batches: 3 walks of 5
    if kind == "ema":
        average = clipped[0]
        for later in clipped[1:]:
            average = [0.5 * a + 0.5 * w for a, w in zip(average, later, strict=True)]
    else:  # at the ends of epochs, after 4, 8, 12 and 16 batches: 0, 1, 2, 3 steps of the optimizer
        average = [torch.stack(tensors).mean(0) for tensors in zip(initial, *clipped, strict=True)]
    for parameter, expected in zip(trainer.model.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_the_noise_of_a_batch_is_a_function_of_seed_epoch_and_batch() -> None:
    spec = trial("standard", [{**ENTROPY, "inner_momentum": 0.0, "gamma": 0.0}], optimizer=PLAIN, epochs=2)
    trainer = Trainer(spec, digits(), None, CPU)
    steps = trainer.run()
    for epoch, index in ((0, 0), (0, 1), (0, 2)):
        twin = copy.deepcopy(trainer.model)
        x, y = trainer.batches.batch(epoch, index)
        torch.nn.functional.cross_entropy(twin.train()(x), y).backward()
        torch.manual_seed(epoch + index)  # the global random state has no say
        next(steps)
        torch.manual_seed(seed_of(spec.seed, "step", epoch, index))
        for new, old in zip(trainer.model.parameters(), twin.parameters(), strict=True):
            assert old.grad is not None
            expected = old.detach() - old.grad + 0.01 * math.sqrt(2) * torch.randn_like(old)
            torch.testing.assert_close(new.detach(), expected, rtol=1e-4, atol=1e-6)


def test_one_step_policy_is_enough() -> None:
    class Other:
        def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
            return True

    trainer = Trainer(trial("at", [ENTROPY]), digits(), None, CPU)
    trainer.regularizers.append(("another", Other()))
    with pytest.raises(ValueError, match="entropy_sgd and another"):
        trainer._find_step_policy()
