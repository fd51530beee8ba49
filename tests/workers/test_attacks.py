"""PGD against closed forms on linear networks, a textbook loop, and the distribution of its random starts."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import assert_same_state, conv_net, images, labels, naive_pgd, seeded, state

from orchestrator.spec.training import Attack
from workers.attacks import cross_entropy_objective, pgd, random_start

NORMS = ("linf", "l2")


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model.eval()(x), y, reduction="none")


def binary_linear(seed: int = 0, pixels: int = 32) -> nn.Sequential:
    linear = nn.Linear(pixels, 2).double()
    nn.init.normal_(linear.weight, generator=seeded(seed))
    nn.init.normal_(linear.bias, generator=seeded(seed + 1))
    return nn.Sequential(nn.Flatten(), linear)


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(1e-3, 1.0),
    step=st.floats(1e-3, 2.0),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 3),
    best=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_stays_inside_ball_and_box(
    norm: Any, eps: float, step: float, steps: int, restarts: int, best: bool, seed: int
) -> None:
    model, x, y = conv_net(seed, dtype=torch.float32), images(5, seed, torch.float32), labels(5, seed=seed)
    attack = Attack(norm=norm, eps=eps, step_size=step, steps=steps, restarts=restarts, best_iterate=best)
    for found in (pgd(model, x, cross_entropy_objective(y), attack, seeded(seed)), random_start(x, attack, seeded(1))):
        assert found.shape == x.shape
        assert float(found.min()) >= 0 and float(found.max()) <= 1
        offset = (found - x).double().flatten(1)
        length = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
        assert float(length.max()) <= eps * (1 + 1e-5) + 1e-6


def test_linf_reaches_the_closed_form_on_a_linear_network() -> None:
    """log(1 + exp(z_k - z_y)) grows with (w_k - w_y) . x, so its optimum is the corner that the signs point at."""
    model, x, y = binary_linear(), images(50), labels(50, 2)
    attack = Attack(eps=0.1, step_size=0.03, steps=7)  # 7 * 0.03 > 2 * 0.1: the corner is reached from anywhere
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    uphill = weight[1 - y] - weight[y]
    corner = (x.flatten(1) + 0.1 * uphill.sign()).clamp(0, 1)
    optimum = F.softplus((corner * uphill).sum(1) + bias[1 - y] - bias[y])
    found = pgd(model, x, cross_entropy_objective(y), attack, seeded(0))
    torch.testing.assert_close(losses(model, found, y), optimum, rtol=1e-12, atol=1e-12)


def test_l2_reaches_the_closed_form_on_a_linear_network() -> None:
    model, y = binary_linear(), labels(50, 2)
    x = 0.3 + 0.4 * torch.rand(50, 2, 4, 4, generator=seeded(0), dtype=torch.float64)  # the box cuts no ball
    attack = Attack(norm="l2", eps=0.25, step_size=0.5, steps=40)
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    uphill = weight[1 - y] - weight[y]
    optimum = F.softplus((x.flatten(1) * uphill).sum(1) + 0.25 * uphill.norm(dim=1) + bias[1 - y] - bias[y])
    found = pgd(model, x, cross_entropy_objective(y), attack, seeded(0))
    torch.testing.assert_close(losses(model, found, y), optimum, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("best", [True, False])
@pytest.mark.parametrize("random", [True, False])
def test_equals_a_textbook_loop(norm: Any, best: bool, random: bool) -> None:
    model, x, y = conv_net(), images(12), labels(12)
    attack = Attack(norm=norm, eps=0.3, step_size=0.12, steps=6, best_iterate=best, random_start=random)
    start = random_start(x, attack, seeded(5))
    assert torch.equal(start, x) is not random
    expected = naive_pgd(model, x, y, attack, start)
    found = pgd(model, x, cross_entropy_objective(y), attack, seeded(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_best_iterate_is_at_least_as_bad_as_the_last_and_the_start(norm: Any) -> None:
    model, x, y = conv_net(), images(60), labels(60)
    attack = Attack(norm=norm, eps=0.5, step_size=0.7, steps=5)  # large steps overshoot, so that the two differ
    best = losses(model, pgd(model, x, cross_entropy_objective(y), attack, seeded(1)), y)
    last_attack = attack.model_copy(update={"best_iterate": False})
    last = losses(model, pgd(model, x, cross_entropy_objective(y), last_attack, seeded(1)), y)
    assert bool((best >= last).all()) and bool((best > last + 1e-6).any())
    assert bool((best >= losses(model, random_start(x, attack, seeded(1)), y)).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("best", [True, False])
def test_restarts_keep_each_examples_worst(norm: Any, best: bool) -> None:
    model, x, y = conv_net(), images(40), labels(40)
    attack = Attack(norm=norm, eps=0.5, step_size=0.4, steps=2, restarts=4, best_iterate=best)
    found = losses(model, pgd(model, x, cross_entropy_objective(y), attack, seeded(2)), y)
    source, single = seeded(2), attack.model_copy(update={"restarts": 1})
    each = torch.stack(
        [losses(model, pgd(model, x, cross_entropy_objective(y), single, source), y) for _ in range(attack.restarts)]
    )
    torch.testing.assert_close(found, each.amax(0), rtol=1e-12, atol=1e-12)
    assert len(each.argmax(0).unique()) > 1  # no single restart is the worst for all


@pytest.mark.parametrize("fail_at", [None, 2])
@pytest.mark.parametrize("restarts", [1, 2])
def test_leaves_the_network_as_it_was(fail_at: int | None, restarts: int) -> None:
    model, x, y = conv_net(), images(8), labels(8)
    model.train()
    model[3].eval()  # modes and flags that are not all the same
    model[4].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, calls = state(model), 0

    def objective(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert not model[1].training
        if calls == fail_at:
            raise RuntimeError("on purpose")
        return F.cross_entropy(logits, y, reduction="none")

    attack = Attack(eps=0.1, step_size=0.05, steps=3, restarts=restarts)
    if fail_at is None:
        found = pgd(model, x, objective, attack, seeded(0))
        assert not found.requires_grad
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            pgd(model, x, objective, attack, seeded(0))
    assert_same_state(before, state(model))


def test_input_is_not_changed() -> None:
    model, x, y = conv_net(), images(8), labels(8)
    before = x.clone()
    for norm in NORMS:
        for random in (True, False):
            attack = Attack(norm=norm, eps=0.2, step_size=0.1, steps=2, random_start=random)
            pgd(model, x, cross_entropy_objective(y), attack, seeded(0))
            assert torch.equal(x, before)


def test_parameters_need_no_gradient_inside() -> None:
    model, x, y = conv_net(), images(8), labels(8)
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(any(p.requires_grad for p in model.parameters()))
        return F.cross_entropy(logits, y, reduction="none")

    pgd(model, x, objective, Attack(eps=0.1, step_size=0.05, steps=2), seeded(0))
    assert seen == [False] * 3


def test_random_start_is_uniform_in_the_linf_ball() -> None:
    x = torch.full((500, 1, 4, 4), 0.5, dtype=torch.float64)
    offset = (random_start(x, Attack(eps=0.25), seeded(0)) - x) / 0.25
    assert scipy.stats.kstest(offset.flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3


def test_random_start_is_uniform_in_the_l2_ball() -> None:
    """Radius r has P(r <= s) = s^d, and a direction's squared coordinate is Beta(1/2, (d - 1)/2)."""
    d = 16
    x = torch.full((5000, 1, 4, 4), 0.5, dtype=torch.float64)
    offset = (random_start(x, Attack(norm="l2", eps=0.25), seeded(0)) - x).flatten(1) / 0.25
    radius = offset.norm(dim=1)
    assert scipy.stats.kstest((radius**d).numpy(), "uniform").pvalue > 1e-3
    squares = (offset / radius[:, None]).square().numpy()
    for coordinate in (0, 7):
        assert scipy.stats.kstest(squares[:, coordinate], scipy.stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-3
    assert abs(float(np.corrcoef(radius.numpy(), offset[:, 0].numpy())[0, 1])) < 4 / math.sqrt(5000)


@pytest.mark.parametrize("norm", NORMS)
def test_determined_by_the_generators_seed(norm: Any) -> None:
    model, x, y = conv_net(dtype=torch.float32), images(8, dtype=torch.float32), labels(8)
    attack = Attack(norm=norm, eps=0.2, step_size=0.01, steps=2, restarts=2)

    def run(seed: int) -> Tensor:
        return pgd(model, x, cross_entropy_objective(y), attack, seeded(seed))

    first = run(7)
    torch.manual_seed(123)  # the global random state has no say
    assert torch.equal(first, run(7))
    assert not torch.equal(first, run(8))


@pytest.mark.parametrize("norm", NORMS)
def test_a_flat_loss_gives_no_nan(norm: Any) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), images(4, dtype=torch.float32)
    nn.init.zeros_(model[1].weight)
    attack = Attack(norm=norm, eps=0.1, step_size=0.05, steps=3, random_start=False, best_iterate=False)
    found = pgd(model, x, cross_entropy_objective(labels(4)), attack, seeded(0))
    torch.testing.assert_close(found, x)
