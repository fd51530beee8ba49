"""Adversarial weight perturbation against a float64 reference of v_l = gamma * ||w_l|| * g_l / ||g_l||."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import assert_same_state, conv_net, images, labels, seeded, state

from orchestrator.spec.methods import METHODS
from workers.labels import Labels

GAMMA = 0.03
OVER = ("at", "trades", "mart")


def awp(over: str, warmup: int = 0, ramp: int = 0) -> Any:
    spec = METHODS.parse({"name": "awp", "over": over, "gamma": GAMMA, "warmup": warmup, "ramp": ramp})
    return spec.load()(spec)


def applied(method: Any, model: nn.Module, x: Tensor, x_adv: Tensor, y: Labels, epoch: int) -> Any:
    return method.applied(model, lambda: method.loss(model, x, x_adv, y).value, epoch)


def batch() -> tuple[Tensor, Tensor, Labels]:
    x = images(9)
    return x, (x + 0.1 * torch.randn(x.shape, generator=seeded(9), dtype=x.dtype)).clamp(0, 1), Labels(labels(9), 3)


def reference_loss(over: str, model: nn.Module, x: Tensor, x_adv: Tensor, y: Labels) -> Tensor:
    """The formulas of SCIENCE.md section 3 with the default betas."""
    if over == "at":
        return -model(x_adv).log_softmax(1)[range(9), y.index].mean()
    clean, adversarial = model(x), model(x_adv)
    p, q = clean.softmax(1), adversarial.softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    if over == "trades":
        return -p[range(9), y.index].log().mean() + 6.0 * divergence.mean()
    rival = torch.stack([max(q[i, k] for k in range(3) if k != y.index[i]) for i in range(9)])
    boosted = (-q[range(9), y.index].log() - (1 - rival).log()).mean()
    return boosted + 5.0 * (divergence * (1 - p[range(9), y.index])).mean()


@pytest.mark.parametrize("over", OVER)
def test_displacement(over: str) -> None:
    model = conv_net().train()
    x, x_adv, y = batch()
    twin = copy.deepcopy(model)
    reference_loss(over, twin, x, x_adv, y).backward()
    before = state(model)
    with applied(awp(over), model, x, x_adv, y, 0):
        inside = state(model)
        for (name, original), parameter in zip(twin.named_parameters(), model.parameters(), strict=True):
            gradient, w = original.grad, original.detach()
            moved = parameter.detach() - w
            if w.dim() > 1:
                assert gradient is not None
                torch.testing.assert_close(moved, GAMMA * w.norm() * gradient / gradient.norm(), rtol=1e-7, atol=1e-12)
                assert float(moved.norm()) == pytest.approx(GAMMA * float(w.norm()), rel=1e-9)
            else:
                assert not moved.any(), name
        for name, buffer in model.named_buffers():  # running_mean, running_var, num_batches_tracked
            assert torch.equal(buffer, before["tensors"][name]), name
    assert inside["modes"] == before["modes"] and inside["flags"] == before["flags"]
    assert inside["tracking"] == before["tracking"]  # the step's own forward does move the statistics
    assert_same_state(before, state(model))


@pytest.mark.parametrize("over", OVER)
def test_perturbed_loss_is_higher(over: str) -> None:
    model, method = conv_net().train(), awp(over)
    x, x_adv, y = batch()
    calm = float(method.loss(copy.deepcopy(model), x, x_adv, y).value.detach())
    with applied(method, model, x, x_adv, y, 0):
        assert float(method.loss(model, x, x_adv, y).value.detach()) > calm


def test_single_precision_weights_come_back_bit_for_bit() -> None:
    """w + v - v is not w in floating point, so this fails for an implementation that subtracts."""
    model = conv_net(dtype=torch.float32).train()
    x, x_adv, y = batch()
    before = state(model)
    with applied(awp("at"), model, x.float(), x_adv.float(), y, 0):
        moved = copy.deepcopy(model)
    assert_same_state(before, state(model))
    assert not torch.equal(moved[0].weight, model[0].weight)


def test_restored_after_an_exception() -> None:
    model = conv_net().train()
    x, x_adv, y = batch()
    before = state(model)
    with pytest.raises(RuntimeError, match="on purpose"), applied(awp("at"), model, x, x_adv, y, 0):
        raise RuntimeError("on purpose")
    assert_same_state(before, state(model))


def test_statistics_are_tracked_again_when_the_extra_forward_fails() -> None:
    model = conv_net().train()
    x, x_adv, y = batch()
    before = state(model)
    with pytest.raises(RuntimeError), applied(awp("at"), model, x, x_adv[:, :1], y, 0):
        pytest.fail("never entered")
    assert_same_state(before, state(model))


@pytest.mark.parametrize("over", OVER)
def test_warm_up_epochs_do_nothing(over: str) -> None:
    model, method = conv_net().train(), awp(over, warmup=2)
    x, x_adv, y = batch()
    before = state(model)
    for epoch in (0, 1):
        with applied(method, model, x, x_adv, y, epoch):
            assert_same_state(before, state(model))
    with applied(method, model, x, x_adv, y, 2):
        assert not torch.equal(model[0].weight, before["tensors"]["0.weight"])


@pytest.mark.parametrize(
    ("warmup", "ramp", "shares"),
    [
        (0, 0, [1, 1, 1]),
        (2, 0, [0, 0, 1, 1]),
        (0, 1, [1 / 2, 1, 1]),
        (0, 3, [1 / 4, 1 / 2, 3 / 4, 1, 1]),
        (2, 4, [0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1]),
    ],
)
def test_radius_over_the_epochs(warmup: int, ramp: int, shares: list[float]) -> None:
    model, method = conv_net().train(), awp("at", warmup, ramp)
    x, x_adv, y = batch()
    w = model[0].weight.detach().clone()
    found = []
    for epoch in range(len(shares)):
        with applied(method, model, x, x_adv, y, epoch):
            found.append(float((model[0].weight.detach() - w).norm() / w.norm()) / GAMMA)
    assert found == pytest.approx(shares, rel=1e-9, abs=0)


def test_attack_and_loss_are_those_underneath() -> None:
    x, x_adv, y = batch()
    for over in OVER:
        under = METHODS.parse(over)
        plain = under.load()(under).loss(conv_net(), x, x_adv, y).value
        assert torch.equal(awp(over).loss(conv_net(), x, x_adv, y).value, plain)


def test_defaults_over_trades_are_wu20s() -> None:
    filled = METHODS.parse({"name": "awp", "over": "trades"})
    assert filled.label() == "awp(trades, gamma=0.005, warmup=10)"
    implementation = filled.load()(filled)
    assert (implementation.gamma, implementation.warmup) == (0.005, 10)
    assert METHODS.parse("awp").label() == "awp(at, gamma=0.01)"
    assert METHODS.parse({"name": "awp", "ramp": 5}).label() == "awp(at, gamma=0.01, ramp=5)"
