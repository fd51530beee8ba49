"""Average- and worst-case flatness against enumeration on two weights, and their invariances."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import CPU, TwoWeights, assert_same_state, digits, digits_network, state, two_pixel_splits

from orchestrator.spec.measures import AverageFlatness, WorstFlatness
from orchestrator.spec.models import MODELS
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.average_flatness import average_flatness, random_directions
from workers.measures.robust_loss import robust_examples
from workers.measures.worst_flatness import worst_flatness
from workers.models.classifier import Classifier
from workers.models.resnet import PostActBlock, PreActBlock
from workers.weights import NORMALISATION, matrices, perturbed_tensors, restored, scaled_to

ATTACK = Attack(eps=0.1, step_size=0.05, steps=2)
FAST = {"steps": 2, "step_size": 0.05}
Measure = Callable[..., Any]


def average(**settings: Any) -> AverageFlatness:
    return AverageFlatness(**{"attack": FAST, "examples": 60, "draws": 3, **settings})


def worst(**settings: Any) -> WorstFlatness:
    return WorstFlatness(**{"attack": FAST, "examples": 60, "restarts": 2, "epochs": 3, "batch_size": 30, **settings})


def measured(model: nn.Module, settings: Any, splits: Splits | None = None, seed: int = 0) -> dict[str, float]:
    measure = average_flatness if isinstance(settings, AverageFlatness) else worst_flatness
    values: dict[str, float] = measure(model, splits or digits(), settings, attack=ATTACK, seed=seed).values
    assert tuple(sorted(values)) == tuple(sorted(settings.keys()))
    return values


# ---- two weights: everything can be enumerated ------------------------------------------------------------------


def robust_losses(weights: np.ndarray, splits: Splits, eps: float) -> np.ndarray:
    """Closed form for weights W x 2: softplus(-(s w.x - eps |w|_1)), s = +1 for class 1; the box cuts no ball."""
    x = splits.test.x.flatten(1).double().numpy() / 255
    signed = x * (2 * splits.test.y.numpy()[:, None] - 1)
    margins = weights @ signed.T - eps * np.abs(weights).sum(1, keepdims=True)
    return np.logaddexp(0, -margins).mean(1)


W = [3.0, -4.0]
EXACT = {"steps": 4, "step_size": 0.1}  # from any start of the ball of radius 0.1 to its corner
XI = 0.5


def circle(radius: float, count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.array(W) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_average_case_equals_the_integral_over_the_circle() -> None:
    splits, draws = two_pixel_splits(), 500
    settings = AverageFlatness(attack=EXACT, xi=(XI,), draws=draws)
    values = average_flatness(TwoWeights(W), splits, settings, attack=Attack(eps=0.1), seed=1)
    around = robust_losses(circle(XI * 5, 20_000), splits, 0.1)
    increase = around - robust_losses(np.array([W]), splits, 0.1)
    error = values["average_flatness_xi0.5_se"]
    assert error == pytest.approx(increase.std() / math.sqrt(draws), rel=0.1)
    assert abs(values["average_flatness_xi0.5"] - increase.mean()) < 4 * error
    assert 0 < 4 * error < increase.mean()  # tight enough to mean something


def test_worst_case_equals_a_search_of_the_whole_disc() -> None:
    splits = two_pixel_splits()
    settings = WorstFlatness(
        attack={"eps": 1e-3, "step_size": 1e-3, "steps": 4},
        xi=(0.2, 0.05),
        restarts=3,
        epochs=40,
        batch_size=24,
        step=0.1,
    )
    values = worst_flatness(TwoWeights(W), splits, settings, attack=Attack(eps=0.1), seed=0)
    for xi in settings.xi:
        disc = np.concatenate([circle(r, 2000) for r in np.linspace(0, xi * 5, 50)])
        best = robust_losses(disc, splits, 1e-3).max() - robust_losses(np.array([W]), splits, 1e-3)[0]
        assert values[settings.key(xi)] == pytest.approx(best, rel=1e-3)


# ---- directions, radii, and the network afterwards ---------------------------------------------------------------


def test_no_perturbation_gives_exactly_zero(trained: Classifier) -> None:
    zero = measured(trained, average(xi=(0.0,)))
    assert zero == {"average_flatness_xi0": 0.0, "average_flatness_xi0_se": 0.0}
    assert measured(trained, worst(xi=(0.0,), attack={**FAST, "restarts": 2})) == {"worst_flatness_xi0": 0.0}


def perturbations(steps: Any, model: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Weight offsets that are seen while a measure stands between two steps."""
    before, seen = copy.deepcopy(model.state_dict()), []
    for _ in steps:
        seen.append({name: tensor - before[name] for name, tensor in model.state_dict().items()})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return seen


def is_norm(name: str) -> bool:
    return "norm" in name or name in {"mean", "std"}


@pytest.mark.parametrize("xi", [0.25, 0.01])
def test_average_perturbations_have_the_radius_in_every_tensor(trained: Classifier, xi: float) -> None:
    before = copy.deepcopy(trained.state_dict())
    settings = average(xi=(xi,), batch_size=1000)
    seen = perturbations(average_flatness.steps(trained, digits(), settings, attack=ATTACK, seed=0), trained)
    moved = [offsets for offsets in seen if any(bool(o.any()) for o in offsets.values())]
    assert len(moved) == settings.draws
    for offsets in moved:
        for name, offset in offsets.items():
            if is_norm(name):
                assert not offset.any(), name
            else:  # weights and biases of convolutions and linear layers
                length = xi * float(before[name].double().norm())
                assert float(offset.double().norm()) == pytest.approx(length, rel=1e-3 if xi < 0.1 else 1e-5), name
    assert not torch.equal(moved[0]["network.stem.weight"], moved[1]["network.stem.weight"])


@pytest.mark.parametrize("protocol", ["matched", "stutz21"])
def test_worst_perturbations_stay_in_every_tensors_ball(trained: Classifier, protocol: str) -> None:
    before = copy.deepcopy(trained.state_dict())
    settings = worst(xi=(0.02,), epochs=6, protocol=protocol)
    seen = perturbations(worst_flatness.steps(trained, digits(), settings, attack=ATTACK, seed=0), trained)
    lengths = []
    for offsets in seen:
        for name, offset in offsets.items():
            if is_norm(name):
                assert not offset.any(), name
            else:
                relative = float(offset.double().norm() / before[name].double().norm())
                assert relative <= 0.02 * (1 + 1e-3), name
                lengths.append(relative)
    assert max(lengths) == pytest.approx(0.02, rel=1e-3)  # and reach its border


@pytest.mark.parametrize("settings", [average(), worst(), worst(protocol="stutz21")])
def test_network_is_as_before_also_when_stopped(trained: Classifier, settings: Any) -> None:
    measure = average_flatness if isinstance(settings, AverageFlatness) else worst_flatness
    trained.train()
    trained.network.linear.bias.requires_grad_(False)
    before = state(trained)
    total = len(list(measure.steps(trained, digits(), settings, attack=ATTACK, seed=0)))
    assert_same_state(before, state(trained))
    changed = 0
    for stop_after in range(1, total, max(1, total // 8)):
        steps = measure.steps(trained, digits(), settings, attack=ATTACK, seed=0)
        for _ in range(stop_after):
            next(steps)
        changed += not torch.equal(trained.network.stem.weight, before["tensors"]["network.stem.weight"])
        steps.close()
        assert_same_state(before, state(trained))
    assert changed  # the stops were in the middle of a perturbation


def test_zero_tensors_are_not_perturbed(trained: Classifier) -> None:
    nn.init.zeros_(trained.network.linear.bias)
    for settings in (average(), worst()):
        measure = average_flatness if isinstance(settings, AverageFlatness) else worst_flatness
        for offsets in perturbations(measure.steps(trained, digits(), settings, attack=ATTACK, seed=0), trained):
            assert not offsets["network.linear.bias"].any()


# ---- invariances and relations -----------------------------------------------------------------------------------


def rescaled(model: Classifier, factors: tuple[float, ...]) -> Classifier:
    """The same function: each block's first convolution times c, the statistics of the norm behind it times c, c^2."""
    twin = copy.deepcopy(model)
    blocks = [m for m in twin.modules() if isinstance(m, PreActBlock)]
    with torch.no_grad():
        for block, c in zip(blocks, factors, strict=True):
            block.conv1.weight.mul_(c)
            block.norm2.running_mean.mul_(c)
            block.norm2.running_var.mul_(c**2)
    return twin


@pytest.mark.parametrize("settings", [average(), worst(xi=(0.01,)), worst(xi=(0.01,), protocol="stutz21")])
def test_scale_invariance(trained: Classifier, settings: Any) -> None:
    """eps of the norms is 0: var + eps does not scale by c^2. Powers of two make all rounding the same."""
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    twin = rescaled(trained, (4.0, 0.125, 32.0))
    first, second = measured(trained, settings), measured(twin, settings)
    assert any(value > 1e-3 for value in first.values())
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_an_absolute_radius_would_not_be_invariant(trained: Classifier) -> None:
    """The test above can fail: the twin's weights at the first network's offsets give another robust loss."""
    twin = rescaled(trained, (4.0, 0.125, 32.0))
    found = []
    for model in (trained, twin):
        parameters = perturbed_tensors(model)
        offsets = random_directions([p.detach() for p in perturbed_tensors(trained)], 0, 0)
        with restored(parameters):
            with torch.no_grad():
                for parameter, offset in zip(parameters, offsets, strict=True):
                    parameter.add_(0.3 * offset)
            found.append(robust_examples(model, digits().test, ATTACK, 100, 0).mean_loss())
    assert found[0] != pytest.approx(found[1], rel=1e-2)


def test_worst_case_is_at_least_the_average_case(trained: Classifier) -> None:
    for xi in (0.05, 0.2):
        a = measured(trained, average(xi=(xi,), draws=5))[f"average_flatness_xi{xi}"]
        w = measured(trained, worst(xi=(xi,), epochs=8))[f"worst_flatness_xi{xi}"]
        assert w > a
        assert w > 0


def test_stutz21s_reference_has_ten_restarts(trained: Classifier) -> None:
    """So flatness comes out lower by exactly what nine more restarts add to the reference loss."""
    matched, released = (measured(trained, average(protocol=p)) for p in ("matched", "stutz21"))
    images = digits().test.first(60)
    budget = average().attack.resolve(ATTACK)
    one, ten = (
        robust_examples(trained, images, budget.model_copy(update={"restarts": r}), 60, 0).mean_loss() for r in (1, 10)
    )
    assert ten > one
    key = "average_flatness_xi0.5"
    assert released[key] < matched[key]
    assert matched[key] - released[key] == pytest.approx(ten - one, rel=1e-6)
    assert matched[key + "_se"] == pytest.approx(released[key + "_se"], rel=1e-6)


def test_average_is_the_mean_over_draws_with_its_standard_error(trained: Classifier) -> None:
    """Each draw's loss, found here with plain tensors; radii share the directions."""
    model, draws, images, budget = trained, 4, digits().test.first(60), average().attack.resolve(ATTACK)
    base = robust_examples(model, images, budget, 60, 0).mean_loss()
    increases = []
    for draw in range(draws):
        parameters = [p for n, p in model.named_parameters() if not is_norm(n)]
        originals = [p.detach().clone() for p in parameters]
        directions = random_directions(originals, 0, draw)
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(0.3 * direction)
        increases.append(robust_examples(model, images, budget, 60, 0).mean_loss() - base)
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)
    values = measured(model, average(xi=(0.1, 0.3), draws=draws))
    assert values["average_flatness_xi0.3"] == pytest.approx(np.mean(increases), rel=1e-5)
    assert values["average_flatness_xi0.3_se"] == pytest.approx(np.std(increases, ddof=1) / 2, rel=1e-4)
    alone = measured(model, average(xi=(0.1,), draws=draws))
    assert alone["average_flatness_xi0.1"] == values["average_flatness_xi0.1"]


def test_single_draw_has_no_standard_error(trained: Classifier) -> None:
    assert measured(trained, average(draws=1))["average_flatness_xi0.5_se"] == 0.0


def test_average_case_does_not_depend_on_the_batch_size(trained: Classifier) -> None:
    values = [measured(trained, average(batch_size=size)) for size in (1000, 17)]
    for key, value in values[0].items():
        assert values[1][key] == pytest.approx(value, rel=2e-3, abs=1e-5)  # a sign may turn by rounding


def test_order_of_examples_matters_by_little(trained: Classifier) -> None:
    part = digits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    settings = average(examples=100, attack={"steps": 8, "step_size": 0.03})
    first, second = (measured(trained, settings, Splits(p, p, p, 10, "")) for p in (part, turned))
    key = "average_flatness_xi0.5"
    assert first[key] == pytest.approx(second[key], rel=0.02)


def test_split_and_examples_are_those_asked_for(trained: Classifier) -> None:
    splits = digits()
    as_test = Splits(splits.train, splits.validation, splits.train, 10, "")
    settings = average(split="train", examples=40)
    values = measured(trained, settings, splits)
    assert set(values) == {"average_flatness_xi0.5_train", "average_flatness_xi0.5_train_se"}
    cut = Splits(splits.train, splits.validation, as_test.test.first(40), 10, "")
    same = measured(trained, average(examples=1000), cut)
    assert same["average_flatness_xi0.5"] == values["average_flatness_xi0.5_train"]


def test_seed_decides(trained: Classifier) -> None:
    for settings in (average(), worst(xi=(0.01,))):
        first = measured(trained, settings, seed=1)
        torch.manual_seed(99)
        assert measured(trained, settings, seed=1) == first
        assert measured(trained, settings, seed=2) != first


# ---- helpers ------------------------------------------------------------------------------------------------------


def test_scaled_to() -> None:
    directions = [torch.tensor([3.0, 4.0]), torch.zeros(3), torch.tensor([[2.0]])]
    lengths = [torch.tensor(10.0), torch.tensor(2.0), torch.tensor(0.0)]
    found = scaled_to(directions, lengths)
    for tensor, expected in zip(found, [[6.0, 8.0], [0.0, 0.0, 0.0], [[0.0]]], strict=True):
        torch.testing.assert_close(tensor, torch.tensor(expected))


def test_random_directions_are_uniform_on_the_sphere() -> None:
    """On a circle the angle is uniform: each quadrant gets a quarter, and no tensor repeats another's direction."""
    import scipy.stats

    weights = [torch.tensor([3.0, 4.0]), torch.tensor([0.5, 0.0])]
    angles = []
    for draw in range(800):
        first, second = random_directions(weights, 0, draw)
        assert float(first.norm()) == pytest.approx(5, rel=1e-5) and float(second.norm()) == pytest.approx(0.5)
        angles.append([math.atan2(first[1], first[0]), math.atan2(second[1], second[0])])
    both = np.array(angles)
    for column in both.T:
        assert scipy.stats.kstest(column, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3
    difference = (both[:, 0] - both[:, 1]) % (2 * np.pi)
    assert scipy.stats.kstest(difference, "uniform", args=(0, 2 * np.pi)).pvalue > 1e-3


@pytest.mark.parametrize("name", ["small_preact_resnet", "preact_resnet18", "resnet18", "wide_resnet"])
def test_perturbed_tensors_are_weights_and_biases_of_convolutions_and_linear_layers(name: str) -> None:
    settings = {"depth": 10, "widen": 1} if name == "wide_resnet" else {"width": 4}
    spec = MODELS.parse({"name": name, **settings})
    network = spec.load()(spec, (3, 32, 32), 10)
    expected = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            expected += [module.weight] + ([module.bias] if module.bias is not None else [])
    found = perturbed_tensors(network)
    assert {id(p) for p in found} == {id(p) for p in expected} and len(found) == len(expected)
    assert {id(p) for p in matrices(network)} == {id(p) for p in expected if p.dim() > 1}
    norms = sum(len(list(m.parameters())) for m in network.modules() if isinstance(m, NORMALISATION))
    assert norms > 0 and len(found) + norms == len(list(network.parameters()))
    assert isinstance(network.blocks[0], PostActBlock if name == "resnet18" else PreActBlock)


def test_perturbed_tensors_knows_the_other_normalisations() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm(4))
    assert [tuple(p.shape) for p in perturbed_tensors(model)] == [(4, 2, 3), (4,)]


def test_measures_work_on_an_untrained_network() -> None:
    model = digits_network().to(CPU)
    assert all(math.isfinite(v) for v in {**measured(model, average()), **measured(model, worst())}.values())
