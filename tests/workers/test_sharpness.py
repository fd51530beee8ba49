"""`adaptive_sharpness` and `relative_flatness` against closed forms, searches and dense Hessians; their invariances."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from curvature_toys import CLASSES, dense_hessian, small_net, small_splits
from pydantic import ValidationError
from torch import Tensor, nn
from toys import ATTACK, TwoWeights, assert_same_state, digits, state, two_pixel_splits

from orchestrator.spec.curvature_measures import AdaptiveSharpness, RelativeFlatness
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.adaptive_sharpness import adaptive_sharpness, normalised
from workers.measures.auto_pgd import AutoPgd, checkpoints
from workers.measures.relative_flatness import relative_flatness
from workers.measures.result import Result
from workers.measures.robust_loss import robust_examples
from workers.models.classifier import Classifier
from workers.models.resnet import PreActBlock

TRAINING = Attack(**ATTACK)
FUNCTIONS: dict[str, Any] = {"adaptive_sharpness": adaptive_sharpness, "relative_flatness": relative_flatness}
SMALL = {"draws": 4, "steps": 5, "chunk": 15}
RADII: dict[str, Any] = {"average_rho": (0.1, 0.3), "linf_rho": (0.02,), "l2_rho": (0.2,)}


def measured(
    model: nn.Module, name: str = "adaptive_sharpness", splits: Splits | None = None, seed: int = 0, **settings: Any
) -> Result:
    more = {**SMALL, **RADII} if name == "adaptive_sharpness" else {}
    spec = MEASURES.parse({"name": name, "attack": {"steps": 2, "step_size": 0.05}, **more, **settings})
    result: Result = FUNCTIONS[name](model, splits or small_splits(), spec, attack=TRAINING, seed=seed)
    assert tuple(result.values) == spec.keys()
    return result


# ---- two weights: the loss is known everywhere --------------------------------------------------------------------

W = np.array([3.0, -4.0])


def clean_losses(weights: np.ndarray, splits: Splits) -> np.ndarray:
    """Closed form for weights W x 2: mean of softplus(-s w.x), s = +1 for class 1."""
    x = splits.test.x.flatten(1).double().numpy() / 255
    signed = x * (2 * splits.test.y.numpy()[:, None] - 1)
    return np.logaddexp(0, -weights @ signed.T).mean(1)


@pytest.mark.parametrize("adaptive", [True, False])
def test_average_equals_an_integral(adaptive: bool) -> None:
    """By Gauss-Hermite quadrature over both weights."""
    splits, rho = two_pixel_splits(), 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    scale = np.abs(W) if adaptive else np.ones(2)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    mass = np.outer(weights, weights).ravel() / (2 * np.pi)
    increase = clean_losses(W + rho * scale * grid, splits) - clean_losses(W[None], splits)
    mean, deviation = mass @ increase, math.sqrt(mass @ increase**2 - (mass @ increase) ** 2)
    found = measured(
        TwoWeights([3.0, -4.0]), splits=splits, loss="clean", average_rho=(rho,), draws=400, adaptive=adaptive,
        linf_rho=(), l2_rho=(),
    )  # fmt: skip
    value, error = found.values.values()
    assert error == pytest.approx(deviation / 20, rel=0.15)
    assert abs(value - mean) < 4 * error


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_worst_case_equals_a_search_of_the_whole_ball(norm: str, adaptive: bool) -> None:
    """For each chunk by itself; the last one is smaller and counts less."""
    splits, rho = two_pixel_splits(20), 0.3
    if norm == "linf":
        side = np.linspace(-1, 1, 201)
        ball = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    else:
        angle = np.linspace(0, 2 * np.pi, 2000)
        ball = np.concatenate([r * np.stack([np.cos(angle), np.sin(angle)], 1) for r in np.linspace(0, 1, 20)])
    scale = np.abs(W) if adaptive else np.ones(2)
    expected = 0.0
    for low in (0, 8, 16):
        part = Images(splits.test.x[low : low + 8], splits.test.y[low : low + 8])
        chunk = Splits(part, part, part, 2, "")
        best = clean_losses(W + rho * scale * ball, chunk).max() - clean_losses(W[None], chunk)[0]
        expected += best * len(part.y) / 20
    radii: dict[str, Any] = {"average_rho": (), "linf_rho": (), "l2_rho": (), f"{norm}_rho": (rho,)}
    found = measured(
        TwoWeights([3.0, -4.0]), splits=splits, loss="clean", chunk=8, steps=40, adaptive=adaptive, **radii
    )
    (value,) = found.values.values()
    assert value == pytest.approx(expected, rel=1e-3)
    assert found.arrays[norm].shape == (1, 3) and float(found.arrays[norm].min()) > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_auto_pgd_finds_maxima_of_quadratic_forms_inside_and_on_the_ball(norm: str) -> None:
    random = np.random.default_rng(0)
    for trial in range(20):
        curved = torch.from_numpy(random.uniform(0.5, 20, 6))
        summit = torch.from_numpy(random.normal(0, 0.2 if trial % 2 else 0.02, 6))

        def value(u: Tensor, curved: Tensor = curved, summit: Tensor = summit) -> Tensor:
            return -(curved * (u - summit) ** 2).sum()

        ascent = AutoPgd([torch.zeros(4).double(), torch.zeros(1, 2).double()], norm, 0.2, 300)
        for step in range(301):
            flat = torch.cat([piece.flatten() for piece in ascent.point])
            assert float(flat.abs().max() if norm == "linf" else flat.norm()) <= 0.2 * (1 + 1e-9)
            slope = -2 * curved * (flat - summit)
            ascent.seen(float(value(flat)), [slope[:4], slope[4:].view(1, 2)] if step < 300 else [])
        if norm == "linf":
            expected = value(summit.clamp(-0.2, 0.2))
        else:  # (curved + multiplier) u = curved * summit, by bisection of the multiplier
            low, high = 0.0, 1e4
            for _ in range(200):
                middle = (low + high) / 2
                u = curved * summit / (curved + middle)
                low, high = (middle, high) if float(u.norm()) > 0.2 else (low, middle)
            expected = value(curved * summit / (curved + high))
        assert ascent.best_value == pytest.approx(float(expected), rel=1e-3, abs=1e-4)
        assert float(value(torch.cat([piece.flatten() for piece in ascent.best]))) == ascent.best_value


def test_checkpoints_are_those_of_the_paper() -> None:
    """Croce & Hein: p = 0, 0.22, 0.41, 0.57, 0.7, 0.8, 0.87, 0.93, 0.99."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]


def test_the_last_step_counts_and_costs_no_gradient() -> None:
    """A linear objective: one step of length 2 rho ends on the border, seen only by the value after it."""
    ascent = AutoPgd([torch.zeros(2)], "linf", 0.5, 1)
    ascent.seen(0.0, [torch.tensor([1.0, -2.0])])
    ascent.seen(float(ascent.point[0] @ torch.tensor([1.0, -2.0])), [])
    assert ascent.best_value == 1.5 and ascent.best[0].tolist() == [0.5, -0.5]


# ---- what is perturbed, and by how much -----------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [True, False])
def test_perturbations_are_where_and_as_large_as_they_should(trained: Classifier, adaptive: bool) -> None:
    spec = AdaptiveSharpness(
        attack={"steps": 2}, **{**SMALL, **RADII, "average_rho": ()}, examples=30, adaptive=adaptive, loss="clean"
    )
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    largest: dict[str, float] = {"linf": 0.0, "l2": 0.0}
    norms = [norm for norm, _ in spec.worst() for _ in range(2 * (spec.steps + 1))]
    steps = adaptive_sharpness.steps(trained, digits(), spec, attack=TRAINING, seed=0)
    for norm, _tick in zip(norms, steps, strict=True):
        relative = []
        for name, tensor in trained.state_dict().items():
            offset = tensor - before[name]
            if "norm" in name or name in {"mean", "std"}:
                assert not offset.any(), name
            else:
                relative.append((offset / (before[name].abs() if adaptive else 1)).flatten().double())
        u = torch.cat(relative)
        largest[norm] = max(largest[norm], float(u.abs().max() if norm == "linf" else u.norm()))
    assert largest["linf"] == pytest.approx(0.02, rel=1e-2) and largest["l2"] == pytest.approx(0.2, rel=1e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_average_uses_one_and_the_same_noise_for_all_radii_and_networks() -> None:
    net, splits = small_net(dtype=torch.float32), small_splits()
    alone, both = (
        measured(net, splits=splits, average_rho=rho, linf_rho=(), l2_rho=()) for rho in ((0.3,), (0.1, 0.3))
    )
    assert alone["adaptive_sharpness_avg_rho0.3"] == both["adaptive_sharpness_avg_rho0.3"]
    draws = both.arrays["draws"]
    assert draws.shape == (4, 2)
    for column, rho in zip(draws.T, (0.1, 0.3), strict=True):
        assert both[f"adaptive_sharpness_avg_rho{rho:g}"] == pytest.approx(float(column.mean()))
        assert both[f"adaptive_sharpness_avg_rho{rho:g}_se"] == pytest.approx(float(column.std()) / 2)


def test_robust_loss_is_taken_at_the_fixed_adversarial_examples(trained: Classifier) -> None:
    """The increase on robust examples is that on images which look like them."""
    attack = TRAINING.model_copy(update={"steps": 2, "step_size": 0.05})
    x = robust_examples(trained, digits().test.first(30), attack, 30, 0).x
    part = Images((x * 255).round().to(torch.uint8), digits().test.y[:30])
    rounded = Splits(part, part, part, 10, "")
    robust = measured(trained, splits=digits(), examples=30)
    clean = measured(trained, splits=digits(), examples=30, loss="clean")
    as_images = measured(trained, splits=rounded, loss="clean")
    for key, value in robust.values.items():
        assert as_images[key.replace("_se", "") + "_clean" + ("_se" if key.endswith("_se") else "")] == pytest.approx(
            value, rel=0.05, abs=1e-4
        )
    assert robust["adaptive_sharpness_linf_rho0.02"] != pytest.approx(
        clean["adaptive_sharpness_linf_rho0.02_clean"], rel=0.05
    )


# ---- invariances ----------------------------------------------------------------------------------------------------


def rescaled(model: Classifier) -> Classifier:
    """The same function: each block's first convolution times c, the statistics of the norm behind it times c, c^2."""
    twin = copy.deepcopy(model)
    blocks = [module for module in twin.modules() if isinstance(module, PreActBlock)]
    with torch.no_grad():
        for block, c in zip(blocks, (4.0, 0.125, 32.0), strict=True):
            block.conv1.weight.mul_(c)
            block.norm2.running_mean.mul_(c)
            block.norm2.running_var.mul_(c**2)
    return twin


def test_rescaling_changes_plain_sharpness_but_not_the_adaptive_one(trained: Classifier) -> None:
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    twin = rescaled(trained)
    first, second = (measured(model, splits=digits(), examples=30) for model in (trained, twin))
    for key, value in first.values.items():
        assert value > 0 and second[key] == pytest.approx(value, rel=1e-5), key
    plain = {"average_rho": (0.02,), "linf_rho": (0.002,), "l2_rho": (0.02,), "adaptive": False, "examples": 30}
    first, second = (measured(model, splits=digits(), **plain) for model in (trained, twin))
    for key, value in first.values.items():
        assert key.startswith("sharpness_") and second[key] != pytest.approx(value, rel=0.02), key


def test_normalised_logits_do_not_know_the_logits_scale() -> None:
    net = small_net(dtype=torch.float32)
    louder = copy.deepcopy(net)
    with torch.no_grad():
        louder.head.weight.mul_(8)
        louder.head.bias.mul_(8)
    options = {"loss": "clean", "normalised_logits": True}
    first, second = (measured(model, **options) for model in (net, louder))
    for key, value in first.values.items():
        assert "sharpness_normalised" in key and second[key] == pytest.approx(value, rel=1e-4)
    first, second = (measured(model, loss="clean") for model in (net, louder))
    for key, value in first.values.items():
        assert second[key] != pytest.approx(value, rel=0.1)


def test_normalised() -> None:
    found = normalised(torch.tensor([[3.0, 0.0, 0.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found[0], torch.tensor([2.0, -1.0, -1.0]) / math.sqrt(6))
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["adaptive_sharpness", "relative_flatness"])
def test_batch_size_changes_rounding_only(name: str) -> None:
    net = small_net(dtype=torch.float32)
    first, second = (measured(net, name, batch_size=size, loss="clean") for size in (1000, 7))
    for key, value in first.values.items():
        assert second[key] == pytest.approx(value, rel=1e-3), key


@pytest.mark.parametrize("name", ["adaptive_sharpness", "relative_flatness"])
def test_order_of_examples_within_a_chunk_does_not_matter(name: str) -> None:
    net, part = small_net(dtype=torch.float32), small_splits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    first, second = (measured(net, name, Splits(p, p, p, CLASSES, ""), loss="clean") for p in (part, turned))
    for key, value in first.values.items():
        assert second[key] == pytest.approx(value, rel=1e-3), key


@pytest.mark.parametrize("name", ["adaptive_sharpness", "relative_flatness"])
def test_going_on_after_a_stop_gives_the_same(name: str) -> None:
    net, splits = small_net(dtype=torch.float32).train(), small_splits()
    net.head.weight.requires_grad_(False)
    before = state(net)
    more = {**SMALL, **RADII, "l2_rho": (0.1, 0.2)} if name == "adaptive_sharpness" else {}
    spec = MEASURES.parse({"name": name, "attack": {"steps": 2}, "batch_size": 10, **more})

    def advance(parts: dict[str, Any], count: int | None) -> tuple[Result | None, int]:
        steps = FUNCTIONS[name].steps(net, splits, spec, attack=TRAINING, seed=0, parts=parts)
        done = 0
        while count is None or done < count:
            try:
                next(steps)
                done += 1
            except StopIteration as stop:
                assert_same_state(before, state(net))
                return stop.value, done
        steps.close()
        assert_same_state(before, state(net))
        return None, done

    expected, total = advance({}, None)
    assert expected is not None and total > 5
    for stop_after in range(1, total, max(1, total // 6)):
        parts: dict[str, Any] = {}
        advance(parts, stop_after)
        done = len(parts)
        found, further = advance(json.loads(json.dumps(parts)), None)
        assert found is not None and found.values == expected.values
        assert all(torch.equal(tensor, expected.arrays[key]) for key, tensor in found.arrays.items())
        assert further < total or not done


def test_seed_decides() -> None:
    net = small_net(dtype=torch.float32)
    first = measured(net, seed=1).values
    torch.manual_seed(99)
    assert measured(net, seed=1).values == first
    assert measured(net, seed=2).values != first


def test_what_is_not_finite_is_flagged(trained: Classifier) -> None:
    big = measured(trained, splits=digits(), examples=20, linf_rho=(1e38,), average_rho=(1e38,), l2_rho=(0.1,))
    assert "not finite at perturbed weights" in big.flags[0]
    assert "linf_rho1e+38" in big.flags[0] and "avg_rho1e+38" in big.flags[0] and "l2" not in big.flags[0]
    with torch.no_grad():
        trained.network.stem.weight[0, 0, 0, 0] = torch.nan
    for name in FUNCTIONS:
        found = measured(trained, name, digits(), examples=20)
        assert all(math.isnan(value) for value in found.values.values())
        assert "nan at the trained weights" in found.flags[0]


def test_specs() -> None:
    with pytest.raises(ValidationError, match="nothing would be measured"):
        AdaptiveSharpness(average_rho=(), linf_rho=(), l2_rho=())
    spec = AdaptiveSharpness(adaptive=False, normalised_logits=True, loss="clean", split="train", l2_rho=())
    assert spec.keys() == (
        "sharpness_normalised_avg_rho0.1_clean_train", "sharpness_normalised_avg_rho0.1_clean_train_se",
        "sharpness_normalised_linf_rho0.002_clean_train",
    )  # fmt: skip
    for cls in (AdaptiveSharpness, RelativeFlatness):
        assert 0 < cls(preset="quick").passes(TRAINING) < cls(preset="paper").passes(TRAINING)
    one, two = (AdaptiveSharpness(draws=draws, loss="clean").passes(TRAINING) for draws in (1, 2))
    assert two - one == 1024 * 0.5


# ---- relative flatness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["robust", "clean"])
def test_relative_flatness_equals_its_definition(loss: str) -> None:
    """By brute force: the dense Hessian of the last layer, the traces of its blocks, the products of its rows."""
    net, splits = small_net(nn.SiLU, dtype=torch.float32), small_splits()
    attack = TRAINING.model_copy(update={"steps": 2, "step_size": 0.05})
    images = splits.test
    x = images.x.float() / 255 if loss == "clean" else robust_examples(net, images, attack, 1000, 0).x
    rows = net.head.weight.detach().double()
    outside, inside = rows.shape
    block = dense_hessian(net, x, images.y)[-rows.numel() :, -rows.numel() :].view(outside, inside, outside, inside)
    expected = 0.0
    for s in range(outside):
        for t in range(outside):
            expected += float(rows[s] @ rows[t]) * float(block[s, :, t, :].trace())
    found = measured(net, "relative_flatness", splits, loss=loss)
    value, error = found.values.values()
    assert expected > 0 and value == pytest.approx(expected, rel=1e-5)
    each = found.arrays["relative_flatness"]
    assert len(each) == 30 and error == pytest.approx(float(each.std()) / math.sqrt(30))


def test_relative_flatness_does_not_change_when_features_are_rescaled() -> None:
    net = small_net(dtype=torch.float32)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.hidden.weight.mul_(4)  # a positive factor goes through the ReLU behind it
        twin.hidden.bias.mul_(4)
        twin.head.weight.div_(4)
    first, second = (measured(model, "relative_flatness", loss="clean") for model in (net, twin))
    assert second["relative_flatness_clean"] == pytest.approx(first["relative_flatness_clean"], rel=1e-5)


def test_relative_flatness_needs_a_layer_that_makes_the_logits(trained: Classifier) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net(dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.net(x)

    with pytest.raises(ValueError, match="last linear layer makes the logits"):
        measured(Scaled(), "relative_flatness")
    with pytest.raises(ValueError, match="a network with a linear layer"):
        measured(nn.Sequential(nn.Conv2d(2, CLASSES, 4), nn.Flatten()), "relative_flatness")
    with_head = copy.deepcopy(trained)
    with_head.heads["rotation"] = nn.Linear(16, 4)
    assert (
        measured(with_head, "relative_flatness", digits(), examples=20).values
        == measured(trained, "relative_flatness", digits(), examples=20).values
    )
