"""Free adversarial training against loops over single images in float64, and its replays in training."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import CPU, PLAIN, conv_net, digits, images, labels, seeded, trial

from orchestrator.spec.methods import METHODS
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.base import Replayed, Stateful
from workers.seeding import generator
from workers.steps import drain
from workers.training import Trainer
from workers.weights import matrices

ATTACKS = {"linf": Attack(eps=0.2, steps=9, step_size=0.01), "l2": Attack(norm="l2", eps=0.7, steps=9, step_size=0.01)}


def method(name: str = "free", **parameters: Any) -> Any:
    spec = METHODS.parse({"name": name, **parameters})
    return spec.load()(spec)


def moved(delta: np.ndarray, gradient: np.ndarray, attack: Attack) -> np.ndarray:
    """One image's delta after a step, pixel by pixel for linf."""
    if attack.norm == "linf":
        result = delta.copy()
        for place in np.ndindex(*delta.shape):
            step = attack.eps * float(np.sign(gradient[place]))
            result[place] = min(attack.eps, max(-attack.eps, delta[place] + step))
        return result
    length = math.sqrt(float((gradient**2).sum()))
    result = delta + (attack.eps * gradient / length if length else 0)
    radius = math.sqrt(float((result**2).sum()))
    return result * min(1.0, attack.eps / radius) if radius else result


@pytest.mark.parametrize("norm", ATTACKS)
def test_delta_goes_on_from_step_to_step_and_from_batch_to_batch(norm: str) -> None:
    attack, found = ATTACKS[norm], method()
    deltas = [np.zeros((2, 4, 4)) for _ in range(5)]
    seen = []
    for index, count in enumerate([5, 5, 3, 5]):  # the third batch is the smaller last one of an epoch
        x, y = images(count, seed=index), Labels(labels(count), 3)
        for replay in range(2):
            x_adv = found.attack(conv_net(), x, y, attack, seeded(0))
            for i in range(count):
                expected = np.clip(x[i].numpy() + deltas[i], 0, 1)
                np.testing.assert_allclose(x_adv[i].numpy(), expected, rtol=0, atol=1e-12)
            gradient = torch.randn(x.shape, generator=seeded(10 * index + replay), dtype=x.dtype)
            gradient[0] = 0  # an image that the loss does not depend on keeps its delta
            gradient[1:, 0, 0] = 0
            found.after_backward(gradient.clone(), attack)
            for i in range(count):
                deltas[i] = moved(deltas[i], gradient[i].numpy(), attack)
        seen.append(np.stack(deltas))
    assert not seen[0][0].any() and np.abs(seen[2][3:] - seen[1][3:]).max() == 0
    reached = [np.abs(d).max() if norm == "linf" else math.sqrt(float((d**2).sum())) for d in seen[3][1:]]
    assert reached == pytest.approx([attack.eps] * 4)  # the ball's border, never beyond


def watched(trainer: Trainer) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Filled with images, labels and attacked images of each step."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    attack = trainer.method.attack

    def spy(model: Any, x: Tensor, y: Labels, *rest: Any) -> Tensor:
        x_adv = attack(model, x, y, *rest)
        seen.append((x.clone(), y.index.clone(), x_adv.clone()))
        return x_adv

    trainer.method.attack = spy  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("norm", ATTACKS)
def test_training_by_hand(norm: str) -> None:
    """Three steps on each of two batches: one backward for the weights and for delta, plain SGD."""
    attack = {"norm": norm, "eps": ATTACKS[norm].eps}
    spec = trial({"name": "free", "replays": 3}, optimizer=PLAIN, attack=attack)
    trainer = Trainer(spec, digits(), None, CPU)
    twin = copy.deepcopy(trainer.model).train()
    sgd = torch.optim.SGD(twin.parameters(), 0.01)  # its rounding is the training's: a sign may hang on it
    delta = np.zeros((50, 1, 8, 8))
    run = trainer.run()
    for index in range(2):
        x, y = trainer.batches.batch(0, index)
        for _ in range(3):
            x_adv = (x + torch.from_numpy(delta).float()).clamp(0, 1).requires_grad_(True)
            twin.zero_grad()
            F.cross_entropy(twin(x_adv), y).backward()
            assert x_adv.grad is not None
            delta = np.stack([moved(d, g.numpy().astype(float), spec.training.attack)
                              for d, g in zip(delta, x_adv.grad, strict=True)])  # fmt: skip
            sgd.step()
            next(run)
            found = trainer.method.state_dict()["delta"]  # type: ignore[attr-defined]
            np.testing.assert_allclose(found.numpy(), delta, rtol=1e-3, atol=1e-4)
            for new, old in zip(trainer.model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-6)


def test_a_replay_sees_the_same_images_and_labels_and_other_dropout() -> None:
    parts = [{"name": "label_noise", "rate": 0.5}, {"name": "mixup", "alpha": 1.0}, {"name": "dropout", "rate": 0.5}]
    trainer = Trainer(trial({"name": "free", "replays": 3}, parts, epochs=2), digits(), None, CPU)
    seen, masks = watched(trainer), []
    layer = next(module for module in trainer.model.modules() if isinstance(module, nn.Dropout))
    layer.register_forward_hook(lambda module, _, out: masks.append(out == 0) if module.training else None)
    drain(trainer.run())
    assert len(seen) == len(masks) == 2 * 4 * 3
    for first in range(0, 24, 3):
        for other in (first + 1, first + 2):
            for a, b in zip(seen[first][:2], seen[other][:2], strict=True):
                assert torch.equal(a, b)
            assert not torch.equal(seen[first][2], seen[other][2])
            assert not torch.equal(masks[first], masks[other])
        assert first == 0 or not torch.equal(seen[first][0], seen[first - 1][0])
    assert torch.equal(seen[0][0], seen[0][2])  # the very first step is on the images as they are


def test_progress_and_schedule_count_every_step() -> None:
    spec = trial({"name": "free", "replays": 2}, schedule="cosine", epochs=2, lr=0.2)
    trainer = Trainer(spec, digits(), None, CPU)
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    seen = [(progress.epoch, progress.batch, progress.batches, progress.fraction) for progress in trainer.run()]
    one = [(0, step, 8, step / 16) for step in range(1, 9)] + [(1, 0, 8, 0.5)]
    assert seen == one + [(1, step, 8, 0.5 + step / 16) for step in range(1, 9)] + [(2, 0, 8, 1.0)]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])


def test_each_step_is_one_forward_in_training_mode() -> None:
    trainer = Trainer(trial({"name": "free", "replays": 4}, epochs=1), digits(), None, CPU)
    modes: list[bool] = []
    trainer.model.register_forward_hook(lambda module, *_: modes.append(module.training))
    drain(trainer.run())
    assert modes == [True] * 16


@pytest.mark.parametrize("outer", ["awp", "random_weight_perturbation"])
def test_only_what_replays_says_that_it_does(outer: str) -> None:
    over_free, over_at = method(outer, over={"name": "free", "replays": 5}), method(outer, over="at")
    assert isinstance(over_free, Replayed) and over_free.replays == 5
    assert not isinstance(over_at, Replayed) and not isinstance(method("at"), Replayed)
    assert isinstance(over_at, Stateful) and over_at.state_dict() == {}
    over_at.load_state_dict({})
    over_free.attack(conv_net(), x := images(3), Labels(labels(3), 3), ATTACKS["linf"], seeded(0))
    over_free.after_backward(torch.ones_like(x), ATTACKS["linf"])
    again = method(outer, over="free")
    again.load_state_dict(over_free.state_dict())
    assert torch.equal(again.under.delta, torch.full_like(x, 0.2))


@pytest.mark.parametrize("name", ["at", "awp"])
def test_no_other_method_differentiates_its_inputs(name: str) -> None:
    trainer = Trainer(trial(name), digits(), None, CPU)
    needed: list[bool] = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: needed.append(inputs[0].requires_grad)
                                            if module.training else None)  # fmt: skip
    next(trainer.run())
    assert needed and not any(needed)


def gradient_at(model: nn.Module, x: Tensor, y: Tensor, move: Callable[[nn.Module], None]) -> Tensor:
    model = copy.deepcopy(model).train()
    move(model)
    x = x.clone().requires_grad_(True)
    F.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    return x.grad


def test_under_awp_the_images_move_along_the_gradient_at_the_perturbed_weights() -> None:
    spec = trial({"name": "awp", "over": "free", "gamma": 0.3})
    trainer = Trainer(spec, digits(), None, CPU)
    before, (x, y) = copy.deepcopy(trainer.model), trainer.batches.batch(0, 0)
    seen: list[Tensor] = []
    trainer.method.after_backward = lambda gradient, _: seen.append(gradient)  # type: ignore[attr-defined]
    next(trainer.run())

    def perturb(model: Any) -> None:
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in matrices(model):
                assert parameter.grad is not None
                parameter += 0.3 * parameter.norm() * parameter.grad / parameter.grad.norm()

    torch.testing.assert_close(seen[0], gradient_at(before, x, y, perturb), rtol=1e-3, atol=1e-7)
    assert not torch.allclose(seen[0], gradient_at(before, x, y, lambda _: None), rtol=0.1, atol=1e-7)


def test_the_attacks_random_source_is_another_one_in_each_replay() -> None:
    """What a replayed method draws for its attack is a function of (seed, epoch, batch, replay)."""
    trainer = Trainer(trial({"name": "free", "replays": 2}, epochs=1), digits(), None, CPU)
    drawn: list[float] = []
    attack = trainer.method.attack

    def spy(model: Any, x: Tensor, y: Labels, settings: Attack, random: torch.Generator) -> Tensor:
        drawn.append(float(torch.rand((), generator=random)))
        return attack(model, x, y, settings, random)

    trainer.method.attack = spy  # type: ignore[method-assign]
    drain(trainer.run())
    places = [(0, index, replay) if replay else (0, index) for index in range(4) for replay in range(2)]
    assert drawn == [float(torch.rand((), generator=generator(CPU, 0, "attack", *place))) for place in places]
    assert len(set(drawn)) == 8
