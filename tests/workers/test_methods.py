"""The methods' losses and attacks against the formulas of SCIENCE.md section 3, written here once more."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from toys import assert_same_state, conv_net, images, labels, seeded, state

from orchestrator.spec.methods import METHODS
from orchestrator.spec.training import Attack
from workers.labels import Labels

BETA = 2.5


def softmax(logits: Tensor) -> np.ndarray:
    z = logits.detach().double().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def targets(y: Labels) -> np.ndarray:
    return y.probabilities.double().numpy() if y.probabilities is not None else np.eye(y.classes)[y.index.numpy()]


def ce(logits: Tensor, y: Labels) -> float:
    return float(np.mean([-sum(t * np.log(p)) for t, p in zip(targets(y), softmax(logits), strict=True)]))


def kls(clean: Tensor, adversarial: Tensor) -> np.ndarray:
    return np.array([sum(p * np.log(p / q)) for p, q in zip(softmax(clean), softmax(adversarial), strict=True)])


def standard(clean: Tensor, adversarial: Tensor, y: Labels) -> float:
    return ce(clean, y)


def at(clean: Tensor, adversarial: Tensor, y: Labels) -> float:
    return ce(adversarial, y)


def trades(clean: Tensor, adversarial: Tensor, y: Labels) -> float:
    return ce(clean, y) + BETA * float(kls(clean, adversarial).mean())


def mart(clean: Tensor, adversarial: Tensor, y: Labels) -> float:
    total = ce(adversarial, y)
    p, q, kl = softmax(clean), softmax(adversarial), kls(clean, adversarial)
    for i, label in enumerate(y.index.tolist()):
        rival = max(q[i, k] for k in range(y.classes) if k != label)
        total += (-math.log(1 - rival) + BETA * kl[i] * (1 - p[i, label])) / len(p)
    return total


REFERENCES: dict[str, Callable[[Tensor, Tensor, Labels], float]] = {
    "standard": standard,
    "at": at,
    "trades": trades,
    "mart": mart,
}


def method(name: str) -> Any:
    spec = METHODS.parse({"name": name, "beta": BETA} if name in {"trades", "mart"} else name)
    return spec.load()(spec)


def batch(count: int = 9) -> tuple[Tensor, Tensor, Labels]:
    x = images(count)
    return x, (x + 0.1 * torch.randn(x.shape, generator=seeded(9), dtype=x.dtype)).clamp(0, 1), Labels(labels(count), 3)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_loss_equals_the_formula(name: str, train: bool, soft: bool) -> None:
    x, x_adv, y = batch()
    if soft:
        y = y.softened(0.3)
    model = conv_net().train(train)
    logits = copy.deepcopy(model)(x), copy.deepcopy(model)(x_adv)
    loss = method(name).loss(model, x, x_adv, y)
    assert float(loss.value.detach()) == pytest.approx(REFERENCES[name](*logits, y), rel=1e-9)
    judged = logits[0] if name == "standard" else logits[1]
    assert torch.equal(loss.logits.argmax(1), judged.argmax(1))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_gradient_equals_finite_differences_through_batch_norm(name: str, soft: bool) -> None:
    x, x_adv, y = batch()
    if soft:
        y = y.softened(0.3)
    model, under = conv_net().train(), method(name)

    def value(shift: float, direction: list[Tensor]) -> float:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, d in zip(moved.parameters(), direction, strict=True):
                parameter.add_(d, alpha=shift)
        return float(under.loss(moved, x, x_adv, y).value.detach())

    under.loss(model, x, x_adv, y).value.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    source = seeded(3)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in model.parameters()]
        slope = (value(1e-5, direction) - value(-1e-5, direction)) / 2e-5
        product = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert product == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_mart_stays_finite_where_the_network_is_certain() -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    logits = torch.tensor([[0.0, 200.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    loss = method("mart").loss(Given(), logits, logits, Labels(torch.tensor([0, 0]), 3)).value
    # the first: -log p_0 = 200, -log(1 - p_1) = 200 - log 2; the second: nothing
    assert float(loss.detach()) == pytest.approx((200 + 200 - math.log(2)) / 2)
    loss.backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("random_start", [True, False])
def test_trades_starts_at_a_small_gaussian_step(random_start: bool) -> None:
    model = conv_net()
    x = 0.2 + 0.6 * torch.rand(200, 2, 4, 4, generator=seeded(0), dtype=torch.float64)
    attack = Attack(eps=0.1, step_size=1e-12, steps=1, random_start=random_start)
    found = method("trades").attack(model, x, Labels(labels(200), 3), attack, seeded(1))
    assert scipy.stats.kstest((found - x).flatten().numpy(), "norm", args=(0, 0.001)).pvalue > 1e-3


def test_trades_attack_maximises_the_divergence() -> None:
    model, x, attack = conv_net().train(), images(30), Attack(eps=0.2, step_size=0.05, steps=8)
    before = state(model)
    found = method("trades").attack(model, x, Labels(labels(30), 3), attack, seeded(1))
    assert_same_state(before, state(model))
    model.eval()

    def divergence(z: Tensor) -> np.ndarray:
        with torch.no_grad():
            return kls(model(x), model(z))

    start = (x + 0.001 * torch.empty_like(x).normal_(generator=seeded(1))).clamp(0, 1)
    assert bool((divergence(found) > divergence(start)).all())
    source = seeded(2)
    for _ in range(20):  # and more than any of twenty random points of the ball, for nearly all images
        noise = 0.4 * torch.rand(x.shape, generator=source, dtype=x.dtype) - 0.2
        assert np.mean(divergence((x + noise).clamp(0, 1)) <= divergence(found)) > 0.9


@pytest.mark.parametrize("name", ["at", "mart"])
def test_attack_raises_the_cross_entropy_with_the_class_index(name: str) -> None:
    model, x, y = conv_net().eval(), images(30), Labels(labels(30), 3)
    attack = Attack(eps=0.2, step_size=0.05, steps=8)
    hard = method(name).attack(model, x, y, attack, seeded(1))
    assert torch.equal(hard, method(name).attack(model, x, y.softened(0.4), attack, seeded(1)))
    with torch.no_grad():
        assert all(ce(model(hard)[i : i + 1], one(y, i)) > ce(model(x)[i : i + 1], one(y, i)) for i in range(30))


def one(y: Labels, i: int) -> Labels:
    return Labels(y.index[i : i + 1], y.classes)
