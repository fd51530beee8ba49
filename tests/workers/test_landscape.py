"""The loss landscape against evaluation at weights set by hand, closed forms and its own symmetries."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import TwoWeights, assert_same_state, digits, naive_pgd, state, two_pixel_splits

from orchestrator.spec.landscape_measures import Landscape
from orchestrator.spec.measures import KINDS
from orchestrator.spec.training import Attack
from workers.attacks import random_start
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures import landscape as module
from workers.measures.landscape import filter_normalised, landscape, summary
from workers.measures.result import Result
from workers.measures.robust_loss import robust_examples
from workers.models.classifier import Classifier
from workers.models.resnet import PreActBlock
from workers.seeding import generator
from workers.steps import drain

ATTACK = Attack(eps=0.1, step_size=0.05, steps=2)
FAST = {"steps": 2, "step_size": 0.05}


def settings(**changes: Any) -> Landscape:
    return Landscape(**{"attack": FAST, "examples": 40, "points": 5, **changes})


def measured(model: nn.Module, how: Landscape, splits: Splits | None = None, seed: int = 0, **more: Any) -> Result:
    result = landscape(model, splits or digits(), how, attack=ATTACK, seed=seed, **more)
    assert tuple(result.values) == how.keys()
    return result


def same(one: Result, other: Result) -> bool:
    return one.values == other.values and all(torch.equal(one.arrays[key], other.arrays[key]) for key in one.arrays)


# ---- against evaluation by hand ----------------------------------------------------------------------------------


def by_hand(model: Classifier, draw: int, axes: int, seed: int) -> list[dict[str, Tensor]]:
    """For each axis the direction of every parameter, filter after filter; zero but for kernels and matrices."""
    found = []
    for axis in range(axes):
        random = generator(torch.device("cpu"), seed, "landscape", draw, axis)
        directions = {}
        for name, weight in model.named_parameters():
            directions[name] = torch.zeros_like(weight)
            if weight.dim() > 1:
                noise = torch.empty_like(weight).normal_(generator=random)
                for index in range(len(weight)):
                    own, length = noise[index].double(), weight[index].detach().double().norm()
                    directions[name][index] = own / own.norm() * length
        found.append(directions)
    return found


def moved(model: Classifier, directions: list[dict[str, Tensor]], point: tuple[float, ...]) -> Classifier:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            for share, direction in zip(point, directions, strict=True):
                weight += share * direction[name]
    return twin


def losses(model: nn.Module, x: Tensor, x_adversarial: Tensor, y: Tensor) -> list[float]:
    """The values of `KINDS`."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        robust, clean = model(x_adversarial), model(x)
    wrong = [logits.argmax(1) != y for logits in (robust, clean)]
    rates = [float((wrong[0] | wrong[1]).double().mean()), float(wrong[1].double().mean())]
    return [float(F.cross_entropy(robust, y)), rates[0], float(F.cross_entropy(clean, y)), rates[1]]


@pytest.mark.parametrize("attack_at", ["point", "origin"])
def test_every_point_equals_a_network_moved_by_hand(trained: Classifier, attack_at: str) -> None:
    how = settings(attack_at=attack_at, draws=2, reach=0.6, rise_at=0.3)
    found = measured(trained, how, seed=3).arrays
    part, budget = digits().test.first(40), how.attack.resolve(ATTACK)
    x, y = to_unit(part.x), part.y
    start = random_start(x, budget, generator(x.device, 3, "attack", 0))
    kept = naive_pgd(trained, x, y, budget, start)
    assert found["alpha"].tolist() == [-0.6, -0.3, 0.0, 0.3, 0.6]
    for draw in range(2):
        directions = by_hand(trained, draw, 1, 3)
        for index, alpha in enumerate(found["alpha"].tolist()):
            twin = moved(trained, directions, (alpha,))
            attacked = kept if attack_at == "origin" else naive_pgd(twin, x, y, budget, start)
            expected = losses(twin, x, attacked, y)
            here = [float(found[kind][draw, index]) for kind in KINDS]
            assert here == pytest.approx(expected, rel=2e-3, abs=1e-6)  # a sign may turn by rounding


def test_surface_equals_networks_moved_by_hand(trained: Classifier) -> None:
    how = settings(dimensions=2, points=3)
    found = measured(trained, how).arrays
    assert found["robust_loss"].shape == (1, 3, 3)
    part = digits().test.first(40)
    directions = by_hand(trained, 0, 2, 0)
    for i, alpha in enumerate((-1.0, 0.0, 1.0)):
        for j, beta in enumerate((-1.0, 0.0, 1.0)):
            twin = moved(trained, directions, (alpha, beta))
            expected = robust_examples(twin, part, how.attack.resolve(ATTACK), 1000, 0).mean_loss()
            assert float(found["robust_loss"][0, i, j]) == pytest.approx(expected, rel=2e-3)


def test_curve_is_the_middle_of_the_surface(trained: Classifier) -> None:
    curve, surface = measured(trained, settings()).arrays, measured(trained, settings(dimensions=2)).arrays
    for kind in KINDS:
        assert torch.equal(surface[kind][:, :, 2], curve[kind])


def test_closed_form_on_two_weights() -> None:
    """RLoss is softplus(-(s w.x - eps |w|_1)); the one filter holds both weights."""
    splits, eps = two_pixel_splits(), 0.1
    how = settings(attack={"steps": 4, "step_size": 0.1}, points=21, rise_at=0.35, level=0.1)
    found = landscape(TwoWeights([3.0, -4.0]), splits, how, attack=Attack(eps=eps), seed=0)
    (direction,) = filter_normalised([torch.tensor([[3.0, -4.0]])], 0, 0, 0)
    assert float(direction.norm()) == pytest.approx(5)
    x = splits.test.x.flatten(1).double().numpy() / 255
    signed = x * (2 * splits.test.y.numpy()[:, None] - 1)

    def g(alpha: float) -> float:
        w = np.array([3.0, -4.0]) + alpha * direction[0].double().numpy()
        return float(np.logaddexp(0, -(signed @ w - eps * np.abs(w).sum())).mean())

    expected = [g(alpha) for alpha in how.alphas()]
    assert found.arrays["robust_loss"][0].tolist() == pytest.approx(expected, rel=1e-5)
    assert found["landscape_rise0.35"] == pytest.approx((g(0.35) + g(-0.35)) / 2 - g(0), rel=0.05, abs=1e-3)


# ---- directions ---------------------------------------------------------------------------------------------------


def offsets_seen(model: nn.Module, how: Landscape) -> list[dict[str, Tensor]]:
    before, seen = copy.deepcopy(model.state_dict()), []
    for _ in landscape.steps(model, digits(), how, attack=ATTACK, seed=0):
        seen.append({name: tensor - before[name] for name, tensor in model.state_dict().items()})
    return [offsets for offsets in seen if any(bool(offset.any()) for offset in offsets.values())]


def test_every_filter_moves_by_alpha_times_its_norm(trained: Classifier) -> None:
    with torch.no_grad():
        trained.network.stem.weight[1] = 0  # a filter of zeros stays
    seen = offsets_seen(trained, settings())
    assert len(seen) == 2 * 4  # two ticks at each point but the origin
    matrices = 0
    for offsets, alpha in zip(seen[::2], (-1.0, -0.5, 0.5, 1.0), strict=True):
        for name, weight in trained.state_dict().items():
            if weight.dim() < 2 or name in {"mean", "std"}:
                assert not offsets[name].any(), name
                continue
            matrices += 1
            for offset, own in zip(offsets[name], weight, strict=True):
                expected = abs(alpha) * float(own.double().norm())
                assert float(offset.double().norm()) == pytest.approx(expected, rel=1e-5), name
    assert matrices == 4 * 10


def test_networks_of_one_shape_share_directions(trained: Classifier) -> None:
    first = [p.detach() for p in trained.parameters() if p.dim() > 1]
    second = [weight * 2 + 0.01 for weight in first]
    one, other = filter_normalised(first, 7, 1, 0), filter_normalised(second, 7, 1, 0)
    for a, b in zip(one, other, strict=True):
        for own, others in zip(a.flatten(1), b.flatten(1), strict=True):
            torch.testing.assert_close(own / own.norm(), others / others.norm())
    for changed in ((8, 1, 0), (7, 2, 0), (7, 1, 1)):
        assert not torch.equal(filter_normalised(first, *changed)[0], one[0])


def test_the_opposite_direction_gives_the_mirrored_curve(trained: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = measured(trained, settings()).arrays
    monkeypatch.setattr(
        module, "filter_normalised", lambda *parts: [-direction for direction in filter_normalised(*parts)]
    )
    mirrored = measured(trained, settings()).arrays
    for kind in KINDS:
        assert torch.equal(mirrored[kind], curve[kind].flip(1))
    assert not torch.equal(curve["robust_loss"], curve["robust_loss"].flip(1))


def test_rescaled_filters_leave_the_landscape_alone(trained: Classifier) -> None:
    """Each output channel has a factor of its own; eps of the norms is 0, as var + eps does not scale by c^2."""
    for part in trained.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    twin = copy.deepcopy(trained)
    with torch.no_grad():
        for block in [m for m in twin.modules() if isinstance(m, PreActBlock)]:
            factors = 2.0 ** (torch.arange(len(block.conv1.weight)) % 7 - 3)
            block.conv1.weight.mul_(factors[:, None, None, None])
            block.norm2.running_mean.mul_(factors)
            block.norm2.running_var.mul_(factors**2)
    one, other = measured(trained, settings()), measured(twin, settings())
    torch.testing.assert_close(one.arrays["robust_loss"], other.arrays["robust_loss"], rtol=1e-6, atol=0)
    assert float(one.arrays["robust_loss"].std()) > 0.1


# ---- values -------------------------------------------------------------------------------------------------------


def parabola(how: Landscape, left: float, right: float) -> np.ndarray:
    alphas = np.array(how.alphas())
    return 1 + np.where(alphas < 0, left, right) * alphas**2


def all_kinds(robust: np.ndarray, clean: np.ndarray | None = None) -> dict[str, np.ndarray]:
    clean = robust / 2 if clean is None else clean
    return {"robust_loss": robust, "clean_loss": clean, "robust_error": robust, "clean_error": clean}


def test_values_of_parabolas() -> None:
    how = settings(points=1001, rise_at=0.3, level=0.5)
    robust = np.stack([parabola(how, 2, 8), parabola(how, 4, 4)])
    values, flags = summary(all_kinds(robust), how)
    rises, widths = [0.09 * 5, 0.09 * 4], [np.sqrt(1 / 4) + np.sqrt(1 / 16), 2 * np.sqrt(1 / 8)]
    for key, expected, error in (("rise0.3", rises, 1e-9), ("width0.5", widths, 1e-5)):
        assert values[f"landscape_{key}"] == pytest.approx(np.mean(expected), rel=error)
        assert values[f"landscape_{key}_se"] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(2), rel=1e-3)
    assert values["landscape_clean_rise0.3"] == pytest.approx(np.mean(rises) / 2)
    assert flags == ()


def test_values_of_a_surface_are_those_along_its_axes() -> None:
    how = settings(points=201, dimensions=2, rise_at=0.5, level=0.5)
    a, b = np.meshgrid(how.alphas(), how.alphas(), indexing="ij")
    values, _ = summary(all_kinds((2 * a**2 + 8 * b**2 + 50 * a * b + 100)[None]), how)
    assert tuple(values) == how.keys()
    assert values["landscape_2d_rise0.5"] == pytest.approx((0.5 + 2) / 2)
    assert values["landscape_2d_width0.5"] == pytest.approx((1 + 0.5) / 2, rel=1e-3)
    assert values["landscape_2d_rise0.5_se"] == pytest.approx(0.75)


def test_what_is_wide_or_odd_is_said() -> None:
    how = settings(points=5, level=0.5)
    flat, steep = np.array([[1.1, 1.0, 1.0, 1.2, 1.3]]), np.array([[1.1, 1.0, 1.0, 2.0, 1.0]])
    values, flags = summary(all_kinds(np.concatenate([flat, steep])), how)
    assert values["landscape_width0.5"] == pytest.approx((2 + 1.25) / 2)  # crossed half-way between 0 and 0.5
    assert "lower bound" in flags[0] and "on 3 of 4 sides" in flags[0]
    infinite = np.array([[1.0, 1.0, 1.0, np.inf, np.nan]])
    values, flags = summary(all_kinds(infinite), how)
    assert values["landscape_width0.5"] == 1.0 and np.isinf(values["landscape_rise0.5"])
    assert any("not finite at 2 of 5 points" in flag for flag in flags)
    _, flags = summary(all_kinds(steep, steep + np.array([0, 0, 1, 0, 0])), settings())
    assert any("lowered the loss at 1 of 5 points" in flag for flag in flags)
    for beyond in (5.0, np.nan):
        unknown = np.array([[1.0, 1.0, 1.0, np.nan, beyond]])
        assert np.isnan(summary(all_kinds(unknown), how)[0]["landscape_width0.5"])
    assert np.isnan(summary(all_kinds(np.array([[1.0, 1, 1, 1.1, np.nan]])), how)[0]["landscape_width0.5"])


def test_robust_network_has_values_and_no_flag_of_the_attack(trained: Classifier) -> None:
    found = measured(trained, settings(points=11))
    assert not any("attack" in flag for flag in found.flags)
    assert found["landscape_rise0.5"] > 0 and 0 < found["landscape_width0.5"] <= 2
    assert found["landscape_rise0.5_se"] == 0.0  # a single line
    assert measured(trained, settings(draws=2, points=3))["landscape_rise0.5_se"] > 0


# ---- a measure's duties -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [settings(draws=2), settings(dimensions=2, points=3, attack_at="origin")])
def test_network_is_as_before_also_when_stopped(trained: Classifier, how: Landscape) -> None:
    trained.train()
    trained.network.linear.bias.requires_grad_(False)
    before = state(trained)
    total = len(list(landscape.steps(trained, digits(), how, attack=ATTACK, seed=0)))
    assert_same_state(before, state(trained))
    for stop_after in range(1, total, 3):
        steps = landscape.steps(trained, digits(), how, attack=ATTACK, seed=0)
        for _ in range(stop_after):
            next(steps)
        steps.close()
        assert_same_state(before, state(trained))


@pytest.mark.parametrize("how", [settings(draws=2), settings(attack_at="origin"), settings(dimensions=2, points=3)])
def test_goes_on_where_it_stopped(trained: Classifier, how: Landscape) -> None:
    whole_parts: dict[str, Any] = {}
    whole = measured(trained, how, parts=whole_parts)
    parts: dict[str, Any] = {}
    rounds = 0
    while len(parts) < len(whole_parts):
        had = len(parts)
        steps = landscape.steps(trained, digits(), how, attack=ATTACK, seed=0, parts=parts)
        for _ in steps:
            if len(parts) > had:
                break
        steps.close()
        parts = json.loads(json.dumps(parts))
        rounds += 1
    assert rounds == len(whole_parts) == how.draws * (how.points**how.dimensions - 1) + 1
    assert parts == whole_parts
    broken = nn.Module()  # nothing is left to compute
    assert same(drain(landscape.steps(broken, digits(), how, attack=ATTACK, seed=0, parts=parts)), whole)


def test_batch_size_changes_rounding_only(trained: Classifier) -> None:
    one, other = (measured(trained, settings(batch_size=size)).arrays for size in (1000, 7))
    for kind in KINDS:
        torch.testing.assert_close(one[kind], other[kind], rtol=2e-3, atol=1e-6)  # a sign may turn by rounding


def test_order_of_examples_changes_rounding_only(trained: Classifier) -> None:
    part = digits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    how = settings(examples=100, attack={**FAST, "random_start": False})
    one, other = (measured(trained, how, Splits(p, p, p, 10, "")).arrays for p in (part, turned))
    for kind in KINDS:
        torch.testing.assert_close(one[kind], other[kind], rtol=2e-3, atol=1e-6)


def test_split_and_examples_are_those_asked_for(trained: Classifier) -> None:
    splits = digits()
    found = measured(trained, settings(split="train", examples=30))
    assert set(found.values) == {f"landscape_{key}0.5_train{se}" for key in ("rise", "clean_rise", "width")
                                 for se in ("", "_se")}  # fmt: skip
    cut = Splits(splits.train, splits.validation, splits.train.first(30), 10, "")
    assert torch.equal(measured(trained, settings(), cut).arrays["robust_loss"], found.arrays["robust_loss"])


def test_seed_decides(trained: Classifier) -> None:
    first = measured(trained, settings(), seed=1)
    torch.manual_seed(99)
    assert same(measured(trained, settings(), seed=1), first)
    assert not same(measured(trained, settings(), seed=2), first)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"points": 4}, "points must be odd"), ({"reach": 0.4}, r"rise_at 0\.5 lies outside of reach 0\.4")],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**wrong)


def test_points_are_symmetric_and_hold_zero() -> None:
    for points in (3, 21, 41, 1001):
        alphas = settings(points=points, reach=0.7).alphas()
        assert alphas[points // 2] == 0 and alphas[0] == -0.7 and len(alphas) == points
        assert all(low == -high for low, high in zip(alphas, reversed(alphas), strict=True))


class Counting(nn.Module):
    """Passes on to a network and counts forward and backward passes of single images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.halves = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.halves += len(x) * (2 if x.requires_grad else 1)
        logits: Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize("changes", [{}, {"draws": 2}, {"dimensions": 2}, {"attack_at": "origin"}], ids=str)
def test_passes_predict_the_cost(trained: Classifier, changes: dict[str, Any]) -> None:
    """The last look at the iterates is taken twice where the best one is kept."""
    how = settings(points=3, attack={**FAST, "best_iterate": False}, **changes)
    counting = Counting(trained)
    measured(counting, how)
    assert counting.halves / 2 == how.passes(ATTACK)
