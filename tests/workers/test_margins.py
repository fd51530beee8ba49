"""Margins against a loop, their standard errors against resampling, boundary thickness against closed forms."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import nn
from toys import CPU, TwoWeights, assert_same_state, digits, seeded, state, two_pixel_splits

from orchestrator.spec.network_measures import BoundaryThickness, Margins
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures.boundary_thickness import boundary_thickness
from workers.measures.margins import margins, margins_of, percentile_error
from workers.measures.robust_loss import robust_examples
from workers.models.classifier import Classifier
from workers.seeding import generator

ATTACK = Attack(eps=0.1)
FAST: dict[str, Any] = {"steps": 3, "step_size": 0.04}


def by_loop(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[float]:
    model.eval()
    found = []
    for image, label in zip(x, y.tolist(), strict=True):
        with torch.no_grad():
            z = model(image[None])[0].tolist()
        found.append(z[label] - max(other for k, other in enumerate(z) if k != label))
    return found


# ---- margins --------------------------------------------------------------------------------------------------------


def test_margins_equal_a_loop(trained: Classifier) -> None:
    settings = Margins(attack=FAST, train_examples=30, test_examples=25, percentile=20, batch_size=11)
    found = margins(trained, digits(), settings, attack=ATTACK, seed=3)
    assert tuple(found.values) == settings.keys() and found.flags == ()
    for part, images in (("train", digits().train.first(30)), ("test", digits().test.first(25))):
        attacked = robust_examples(trained, images, settings.attack.resolve(ATTACK), 11, 3).x
        for kind, x in (("clean", to_unit(images.x)), ("adversarial", attacked)):
            expected = by_loop(trained, x, images.y)
            assert found.arrays[f"{kind}_{part}"].tolist() == pytest.approx(expected, abs=1e-4)
            key = f"margin_p20_{kind}_{part}"
            assert found[key] == pytest.approx(np.percentile(expected, 20), abs=1e-4)
            assert found[f"{key}_se"] > 0
    assert found["margin_p20_adversarial_test"] < found["margin_p20_clean_test"]


def test_a_margin_is_negative_where_the_network_is_wrong() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 4.0, -2.0], [3.0, 3.0, 0.0]])

    assert margins_of(Fixed(), torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), 5).tolist() == [-3.0, 0.0]
    assert margins_of(Fixed(), torch.zeros(2, 1, 1, 1), torch.tensor([1, 2]), 5).tolist() == [3.0, -3.0]


@pytest.mark.parametrize(("count", "share"), [(40, 0.1), (41, 0.5), (7, 0.1), (200, 0.93)])
def test_standard_error_is_that_of_resampling(count: int, share: float) -> None:
    """The order statistic next to the percentile, over 20,000 resamples that are drawn."""
    values = np.random.default_rng(1).normal(size=count)
    resampled = np.random.default_rng(2).choice(values, (20_000, count))
    place = min(max(math.floor(share * count + 0.5), 1), count) - 1
    expected = np.partition(resampled, place, axis=1)[:, place].std()
    assert percentile_error(torch.from_numpy(values), share) == pytest.approx(expected, rel=0.03)


def test_standard_error_of_a_large_sample() -> None:
    """sqrt(p (1 - p) / n) / density at the percentile, of normal values."""
    count = 20_000
    values = torch.randn(count, generator=seeded(0), dtype=torch.float64)
    expected = math.sqrt(0.1 * 0.9 / count) / stats.norm.pdf(stats.norm.ppf(0.1))
    assert percentile_error(values, 0.1) == pytest.approx(expected, rel=0.15)
    assert percentile_error(values[:1], 0.1) == 0.0
    assert percentile_error(torch.full((9,), 2.5), 0.1) == 0.0


def test_batch_size_and_order_change_margins_by_rounding_only(trained: Classifier) -> None:
    """Without random starts, which go by position."""
    attack = {**FAST, "random_start": False}
    part = digits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    first, second, third = (
        margins(trained, Splits(p, p, p, 10, ""), Margins(attack=attack, batch_size=size), attack=ATTACK, seed=0)
        for p, size in ((part, 1000), (part, 7), (turned, 1000))
    )
    for key, value in first.values.items():
        assert second[key] == pytest.approx(value, abs=1e-3)
        assert third[key] == pytest.approx(value, abs=1e-3)
    assert third.arrays["clean_test"].flip(0).tolist() == pytest.approx(first.arrays["clean_test"].tolist(), abs=1e-4)


# ---- boundary thickness ---------------------------------------------------------------------------------------------

W = [3.0, -4.0]
"""Of length 5: z_1 - z_0 = w . x falls by 5 along each unit of the way."""


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.75), (-0.5, 0.3), (0.2, 0.9)])
@pytest.mark.parametrize("eps", [0.1, 0.25])
def test_thickness_of_a_linear_classifier(alpha: float, beta: float, eps: float) -> None:
    """p_i - p_j = tanh(m / 2) with the margin m falling from |w . x| by 5 eps; the box cuts no ball."""
    splits = two_pixel_splits()
    settings = BoundaryThickness(alpha=alpha, beta=beta, eps=eps, step_size=0.1, steps=5, points=2000)
    found = boundary_thickness(TwoWeights(W), splits, settings, attack=ATTACK, seed=0)
    margin = np.abs((splits.test.x.flatten(1).double().numpy() / 255) @ np.array(W))
    high, low = (2 * np.arctanh(end) for end in (beta, alpha))
    expected = np.clip(np.minimum(margin, high) - np.maximum(margin - 5 * eps, low), 0, None) / 5
    np.testing.assert_allclose(found.arrays["thickness"], expected, atol=2 * eps / 2000 + 1e-5)
    assert found["boundary_thickness"] == pytest.approx(expected.mean(), abs=1e-3)
    assert found["boundary_thickness_se"] == pytest.approx(expected.std(ddof=1) / math.sqrt(24), abs=1e-3)
    assert 0 < expected.mean() < eps
    reached = margin < 5 * eps
    assert found.arrays["reached"].tolist() == reached.tolist()
    assert bool(found.flags) == (reached.mean() < 0.9)


def test_a_scaled_network_has_a_boundary_that_is_thinner_by_as_much() -> None:
    splits, settings = two_pixel_splits(), BoundaryThickness(eps=0.25, step_size=0.1, points=1000)
    thick, thin = (
        boundary_thickness(TwoWeights([scale * w for w in W]), splits, settings, attack=ATTACK, seed=0)
        for scale in (4, 8)
    )
    crossing = thick.arrays["reached"] & (thick.arrays["thickness"] < 0.2)
    ratio = thick.arrays["thickness"][crossing] / thin.arrays["thickness"][crossing]
    whole = np.abs((splits.test.x.flatten(1).double().numpy() / 255) @ np.array(W)) * 4 > 2 * np.arctanh(0.75)
    assert whole[crossing].sum() > 5
    np.testing.assert_allclose(ratio[torch.from_numpy(whole)[crossing]], 2, rtol=0.03)


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
        with torch.no_grad():
            self[-1].weight.mul_(8)


def test_thickness_equals_a_loop_over_images_and_points() -> None:
    """Targeted PGD of the authors' code, one image at a time, in float64."""
    settings = BoundaryThickness(examples=12, points=40, steps=6, eps=0.8, split="train")
    model, images = Mlp(), digits().train.first(12)
    found = boundary_thickness(model, digits(), settings, attack=ATTACK, seed=2)
    assert tuple(found.values) == ("boundary_thickness_train", "boundary_thickness_train_se")
    model = model.double()
    offsets = torch.randint(1, 10, (12,), generator=generator(CPU, 2, "target class")).tolist()
    expected = []
    for image, offset in zip(images.x.double() / 255, offsets, strict=True):
        x = image[None]
        own = int(model(x).argmax())
        target = (own + offset) % 10
        current = x.clone()
        for _ in range(6):
            current = current.detach().requires_grad_(True)
            nn.functional.cross_entropy(model(current), torch.tensor([target])).backward()
            moved = current.detach() - 0.2 * current.grad / current.grad.norm() - x
            current = (x + moved * min(1.0, 0.8 / float(moved.norm()))).clamp(0, 1)
        inside = 0
        for point in range(40):
            t = (point + 0.5) / 40
            p = model(t * x + (1 - t) * current.detach()).softmax(1)[0]
            inside += bool(0 < p[own] - p[target] < 0.75)
        expected.append(float((current.detach() - x).norm()) * inside / 40)
    assert 0.1 < np.mean(expected) < 0.7
    # a probability may lie within rounding of an end
    np.testing.assert_allclose(found.arrays["thickness"], expected, atol=0.8 / 40 + 1e-4)
    assert found["boundary_thickness_train"] == pytest.approx(np.mean(expected), rel=0.02)


def test_ways_that_do_not_arrive_are_told() -> None:
    settings = BoundaryThickness(eps=1e-3, step_size=1e-3, examples=20, points=4)
    found = boundary_thickness(Mlp(), digits(), settings, attack=ATTACK, seed=0)
    (flag,) = found.flags
    assert flag.startswith("only ") and flag.endswith("of the ways end in their class: raise eps or steps")


def test_batch_size_and_order_change_thickness_by_rounding_only() -> None:
    """With two classes there is one other class, whatever is drawn."""
    splits = two_pixel_splits()
    turned = Images(splits.test.x.flip(0), splits.test.y.flip(0))
    first, second, third = (
        boundary_thickness(
            TwoWeights(W), Splits(p, p, p, 2, ""), BoundaryThickness(eps=0.2, batch_size=size), attack=ATTACK, seed=0
        )
        for p, size in ((splits.test, 1000), (splits.test, 5), (turned, 1000))
    )
    assert second.arrays["thickness"].tolist() == pytest.approx(first.arrays["thickness"].tolist(), abs=2e-3)
    assert third.arrays["thickness"].flip(0).tolist() == pytest.approx(first.arrays["thickness"].tolist(), abs=2e-3)


def test_alpha_lies_below_beta() -> None:
    with pytest.raises(ValidationError, match=r"alpha 0.5 is not below beta 0.5"):
        BoundaryThickness(alpha=0.5, beta=0.5)


# ---- as every measure -----------------------------------------------------------------------------------------------

BOTH = [
    pytest.param(margins, Margins(attack=FAST, train_examples=20, test_examples=30, batch_size=15), id="margins"),
    pytest.param(boundary_thickness, BoundaryThickness(examples=20, points=3, steps=3, batch_size=8), id="thickness"),
]


@pytest.mark.parametrize(("measure", "settings"), BOTH)
def test_network_is_as_before_also_when_stopped(measure: Any, settings: Any, trained: Classifier) -> None:
    trained.train()
    trained.network.linear.weight.requires_grad_(False)
    before = state(trained)
    for stop in (1, 3):
        steps = measure.steps(trained, digits(), settings, attack=ATTACK, seed=0)
        for _ in range(stop):
            next(steps)
        assert_same_state(before, state(trained))
        steps.close()
        assert_same_state(before, state(trained))


@pytest.mark.parametrize(("measure", "settings"), BOTH)
def test_goes_on_where_it_was_stopped(measure: Any, settings: Any) -> None:
    model, calls = Mlp(), [0]
    model.register_forward_pre_hook(lambda _module, inputs: calls.__setitem__(0, calls[0] + len(inputs[0])))
    whole = measure(model, digits(), settings, attack=ATTACK, seed=0)
    once, parts = calls[0], {}
    steps = measure.steps(model, digits(), settings, attack=ATTACK, seed=0, parts=parts)
    while len(parts) < 2:
        tick = next(steps)
        assert 0 < tick.done <= tick.total
    steps.close()
    parts, calls[0] = json.loads(json.dumps(parts)), 0
    again = measure(model, digits(), settings, attack=ATTACK, seed=0, parts=parts)
    assert 0 < calls[0] < once
    assert again.values == whole.values
    for key, found in whole.arrays.items():
        assert torch.equal(again.arrays[key], found)


@pytest.mark.parametrize(("measure", "settings"), BOTH)
def test_the_seed_alone_decides(measure: Any, settings: Any) -> None:
    model = Mlp()
    first = measure(model, digits(), settings, attack=ATTACK, seed=1).values
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert measure(model, digits(), settings, attack=ATTACK, seed=1).values == first
    assert torch.equal(torch.get_rng_state(), before)
    assert measure(model, digits(), settings, attack=ATTACK, seed=2).values != first


@pytest.mark.parametrize(("measure", "settings"), BOTH)
def test_predicted_cost_is_an_upper_bound_and_not_a_loose_one(measure: Any, settings: Any) -> None:
    model, cost = Mlp(), 0.0

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal cost
        cost += len(inputs[0]) * (1.0 if torch.is_grad_enabled() and inputs[0].requires_grad else 0.5)

    model.register_forward_pre_hook(count)
    measure(model, digits(), settings, attack=ATTACK, seed=0)
    assert cost <= settings.passes(ATTACK) <= 1.2 * cost
