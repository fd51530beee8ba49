"""Norms of the weights against dense matrices, enumerated paths and sums by hand."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toys import CPU, assert_same_state, digits, digits_network, seeded, state, trial

from orchestrator.spec.network_measures import Norms
from orchestrator.spec.sweep import Evaluation
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures import norms as module
from workers.measures.norms import norms
from workers.measures.path_norm import path_norm
from workers.measures.spectral_norm import Layer, layers_of, spectral_norm
from workers.models.classifier import Classifier
from workers.models.resnet import PostActBlock, PreActBlock
from workers.storage import Folder
from workers.training import Trainer
from workers.trial import run_trial

EXACT = 1e-6


def of_shape(channels: int, side: int, count: int = 2) -> Splits:
    x = torch.randint(256, (count, channels, side, side), generator=seeded(0), dtype=torch.uint8)
    part = Images(x, torch.zeros(count, dtype=torch.int64))
    return Splits(part, part, part, 2, "")


def measured(model: nn.Module, splits: Splits, initial: Any = None, **settings: Any) -> Any:
    return norms(model, splits, Norms(**settings), attack=Attack(), seed=0, initial=initial)


def random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Nothing is at its initial 0 or 1."""
    random = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5 + 0.1)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                norm.running_mean.copy_(torch.randn(norm.num_features, generator=random))
                norm.running_var.copy_(torch.rand(norm.num_features, generator=random) + 0.3)
    return model.eval()


def dense(layer: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Matrix, shift and output shape of an affine layer, from what it makes of basis images."""
    layer = copy.deepcopy(layer).double().eval()
    with torch.no_grad():
        shift = layer(torch.zeros(1, *shape, dtype=torch.float64))
        basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
        matrix = (layer(basis) - shift).flatten(1).T
    return matrix.numpy(), shift.flatten().numpy(), tuple(shift.shape[1:])


# ---- spectral norms -------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    pytest.param(nn.Conv2d(2, 3, 3, padding=1), id="padding"),
    pytest.param(nn.Conv2d(2, 3, 3), id="no padding"),
    pytest.param(nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), id="stride"),
    pytest.param(nn.Conv2d(2, 4, 1, stride=2, bias=False), id="shortcut"),
    pytest.param(nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), id="dilation and groups"),
    pytest.param(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), id="circular"),
    pytest.param(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), id="reflect"),
    pytest.param(nn.ConvTranspose2d(2, 3, 3, stride=2), id="transposed"),
    pytest.param(nn.Conv2d(2, 1, 6), id="whole image"),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_norm_of_a_convolution_is_that_of_its_matrix(layer: nn.Module) -> None:
    layer, shape = random_weights(copy.deepcopy(layer)), (2, 6, 6)
    matrix, _, _ = dense(layer, shape)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    found, error = spectral_norm(Layer(layer, shape), 1e-9, 200, seeded(1))
    assert found == pytest.approx(expected, rel=1e-9)
    assert error <= 1e-9
    rough, error = spectral_norm(Layer(layer, shape), 1e-2, 200, seeded(1))
    assert rough == pytest.approx(expected, rel=1e-2) and error <= 1e-2


def test_it_is_not_the_norm_of_the_kernel_and_depends_on_the_image() -> None:
    layer = random_weights(nn.Conv2d(2, 3, 3, padding=1))
    small, large = (spectral_norm(Layer(layer, (2, side, side)), EXACT, 500, seeded(0))[0] for side in (3, 12))
    kernel = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
    assert kernel * 1.05 < small < large * 0.98


def test_neighbouring_singular_values_are_told_apart() -> None:
    """On a large image they lie close together: plain power iteration would still be far from the end."""
    layer, shape = random_weights(nn.Conv2d(1, 1, 3, padding=1)), (1, 20, 20)
    singular = np.linalg.svd(dense(layer, shape)[0], compute_uv=False)
    assert singular[1] / singular[0] > 0.98
    found, error = spectral_norm(Layer(layer, shape), EXACT, 200, seeded(0))
    assert error <= EXACT and found == pytest.approx(singular[0], rel=2 * EXACT)


def test_linear_layers_and_batch_normalisation() -> None:
    linear, norm = random_weights(nn.Linear(7, 5)), random_weights(nn.BatchNorm2d(3))
    expected = np.linalg.svd(linear.weight.detach().double().numpy(), compute_uv=False)[0]
    assert spectral_norm(Layer(linear, (7,)), EXACT, 9, seeded(0))[0] == pytest.approx(expected, rel=1e-12)
    matrix, _, _ = dense(norm, (3, 2, 2))
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert spectral_norm(Layer(norm, (3, 2, 2)), EXACT, 9, seeded(0))[0] == pytest.approx(expected, rel=1e-12)
    plain = nn.BatchNorm2d(3, affine=False)
    plain.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    assert spectral_norm(Layer(plain, (3, 2, 2)), EXACT, 9, seeded(0))[0] == pytest.approx(2, rel=1e-4)


def test_a_layer_of_zeros() -> None:
    layer = nn.Conv2d(2, 3, 3)
    nn.init.zeros_(layer.weight)
    assert spectral_norm(Layer(layer, (2, 5, 5)), EXACT, 9, seeded(0)) == (0.0, 0.0)
    found = measured(nn.Sequential(layer, nn.Flatten(), nn.Linear(27, 2)), of_shape(2, 5))
    assert found["spectral_norm_product"] == 0 and found["log_spectral_norm_product"] == -math.inf


def test_the_product_is_over_every_layer_that_an_image_meets() -> None:
    conv, norm, linear = nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3), nn.Linear(12, 4)
    model = random_weights(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), linear))
    each = [dense(conv, (2, 5, 5))[0], dense(norm, (3, 2, 2))[0], linear.weight.detach().numpy()]
    expected = [np.linalg.svd(matrix, compute_uv=False)[0] for matrix in each]
    found = measured(model, of_shape(2, 5), tolerance=EXACT)
    assert found["spectral_norm_product"] == pytest.approx(math.prod(expected), rel=1e-5)
    assert found["log_spectral_norm_product"] == pytest.approx(sum(np.log(expected)), rel=1e-5)
    assert found.arrays["spectral_norms"].tolist() == pytest.approx(expected, rel=1e-5)
    assert tuple(found.values) == Norms().keys()


def test_a_residual_network_s_layers_are_all_there() -> None:
    model = digits_network()
    met = [layer.module for layer in layers_of(model, torch.zeros(1, 1, 8, 8))]
    own = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    assert {id(m) for m in met} == {id(m) for m in own} and len(met) == len(own)
    assert not any(m._forward_pre_hooks for m in own)


def test_a_layer_that_is_met_twice_counts_twice() -> None:
    linear = random_weights(nn.Linear(4, 4))
    found = measured(nn.Sequential(nn.Flatten(), linear, nn.ReLU(), linear), of_shape(1, 2))
    assert found["spectral_norm_product"] == pytest.approx(
        float(torch.linalg.matrix_norm(linear.weight.detach(), 2)) ** 2
    )


def test_too_few_iterations_are_flagged() -> None:
    found = measured(digits_network(), digits(), iterations=2, tolerance=1e-6)
    assert any("spectral norms are not converged" in flag for flag in found.flags)
    assert not any("converged" in flag for flag in measured(digits_network(), digits()).flags)


def test_what_is_no_linear_layer_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 2))
    (flag,) = (flag for flag in measured(model, of_shape(1, 4)).flags if "product" in flag)
    assert flag == "not in spectral_norm_product: 1 GroupNorm"
    classifier = digits_network()
    classifier.heads["rotation"] = nn.Linear(16, 4)
    assert not any("product" in flag for flag in measured(classifier, digits()).flags)


# ---- path norm ------------------------------------------------------------------------------------------------------


def test_path_norm_of_a_small_network_by_enumeration() -> None:
    """Every path from a pixel or a bias to a logit, one after another."""
    first, second, third = nn.Linear(4, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)
    model = random_weights(nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third))
    w1, w2, w3 = (layer.weight.detach().double().numpy() for layer in (first, second, third))
    b1, b3 = first.bias.detach().double().numpy(), third.bias.detach().double().numpy()
    total = float((b3**2).sum())
    for j, k, out in itertools.product(range(3), range(3), range(2)):
        for start in [*(w1[j, pixel] for pixel in range(4)), b1[j]]:
            total += (start * w2[k, j] * w3[out, k]) ** 2
    found, said = path_norm(model, (1, 2, 2))
    assert found == pytest.approx(math.sqrt(total), rel=1e-12) and said == ()


class Squares:
    """Dense layers with every entry squared, applied to non-negative vectors."""

    def __init__(self, x: np.ndarray, shape: tuple[int, ...]) -> None:
        self.x, self.shape = x, shape

    def through(self, layer: nn.Module) -> "Squares":
        matrix, shift, shape = dense(layer, self.shape)
        return Squares(matrix**2 @ self.x + shift**2, shape)

    def __add__(self, other: "Squares") -> "Squares":
        return Squares(self.x + other.x, self.shape)

    def mean(self) -> "Squares":
        return Squares(self.x.reshape(self.shape[0], -1).mean(1), self.shape[:1])


def squares_through_preact(model: Classifier, shape: tuple[int, int, int]) -> float:
    """A pre-activation ResNet's forward pass, written out."""
    network = model.network
    x = Squares(np.ones(math.prod(shape)), shape).through(network.stem)
    for block in network.blocks:
        assert isinstance(block, PreActBlock)
        active = x.through(block.norm1)
        skipped = x if block.shortcut is None else active.through(block.shortcut)
        x = active.through(block.conv1).through(block.norm2).through(block.conv2) + skipped
    return float(x.through(network.last_norm).mean().through(network.linear).x.sum())


def test_path_norm_of_a_residual_network_with_batch_normalisation() -> None:
    model = random_weights(digits_network())
    found, said = path_norm(model, (1, 8, 8))
    assert found == pytest.approx(math.sqrt(squares_through_preact(model, (1, 8, 8))), rel=1e-9) and said == ()


def test_batch_normalisation_behind_a_convolution_is_as_if_folded_into_it() -> None:
    block = random_weights(PostActBlock(2, 3, 1, "bn"))
    folded = copy.deepcopy(block)
    pairs = [("conv1", "norm1"), ("conv2", "norm2"), ("shortcut.0", "shortcut.1")]
    with torch.no_grad():
        for conv_name, norm_name in pairs:
            conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
            owner, _, last = norm_name.rpartition(".")
            setattr(folded.get_submodule(owner), last, nn.Identity())
    tail = [nn.Flatten(), random_weights(nn.Linear(48, 2))]
    first, second = (path_norm(nn.Sequential(m, *tail), (2, 4, 4))[0] for m in (block, folded))
    assert first == pytest.approx(second, rel=1e-5)


def test_rescaling_that_changes_nothing_changes_no_path_norm_and_no_product() -> None:
    """A convolution times c, the statistics behind it times c and c^2; and the two sides of a ReLU by c and 1 / c."""
    model = random_weights(digits_network())
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.0
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for block, c in zip((m for m in twin.modules() if isinstance(m, PreActBlock)), (4.0, 0.5, 8.0), strict=True):
            block.conv1.weight.mul_(c)
            block.norm2.running_mean.mul_(c)
            block.norm2.running_var.mul_(c**2)
        twin.network.last_norm.weight.mul_(4)
        twin.network.last_norm.bias.mul_(4)
        twin.network.linear.weight.div_(4)
    first, second = (measured(m, digits()) for m in (model, twin))
    for key in ("path_norm", "spectral_norm_product", "log_spectral_norm_product"):
        assert second[key] == pytest.approx(first[key], rel=1e-6)
    assert second["frobenius_norm"] != pytest.approx(first["frobenius_norm"], rel=0.01)


def test_the_standardised_input_is_all_ones() -> None:
    model = random_weights(digits_network())
    assert path_norm(model, (1, 8, 8))[0] == path_norm(model.network, (1, 8, 8))[0]


def test_other_activations_have_the_path_norm_of_relu() -> None:
    layers = [nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)]
    relu = random_weights(nn.Sequential(*layers))
    silu = nn.Sequential(*layers[:2], nn.SiLU(), layers[3])
    assert path_norm(relu, (1, 2, 2)) == (path_norm(silu, (1, 2, 2))[0], ())
    assert path_norm(silu, (1, 2, 2))[1] == ("path_norm is that of the same weights with ReLU instead of SiLU",)


class Functional(nn.Module):
    """An activation that no module tells of."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 5), nn.Linear(5, 2), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.function(self.first(x.flatten(1))))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.linear = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2)
        return self.linear(self.attention(tokens, tokens, tokens)[0].mean(1))


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (Functional(F.silu), 1),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 2)), 2),
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2)), 1),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(8, 2)), 2),
        (Attending(), 3),
    ],
    ids=["functional SiLU", "group norm", "layer norm", "batch statistics", "attention"],
)
def test_where_there_are_no_paths_there_is_no_path_norm(model: nn.Module, channels: int) -> None:
    found = measured(random_weights(model), of_shape(channels, 2))
    assert math.isnan(found["path_norm"])
    assert any(flag.startswith("path_norm is not defined") for flag in found.flags)
    assert not math.isnan(found["frobenius_norm"])


def test_a_functional_relu_is_one() -> None:
    relu = random_weights(Functional(F.relu))
    plain = nn.Sequential(nn.Flatten(), relu.first, nn.ReLU(), relu.second)
    assert path_norm(relu, (1, 2, 2)) == path_norm(plain, (1, 2, 2))


# ---- Frobenius norm and distance ------------------------------------------------------------------------------------


def test_frobenius_norm_and_distance_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [2.0, 0.0]]]]))
        model[3].weight.copy_(torch.tensor([[4.0], [0.0]]))
        model[0].bias.fill_(100)
        model[1].weight.fill_(100)
        twin[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]]))
        twin[3].weight.copy_(torch.tensor([[4.0], [-1.5]]))
    found = measured(model, of_shape(1, 2), initial=lambda: twin)
    assert found["frobenius_norm"] == pytest.approx(5.0)
    assert found.arrays["frobenius_norms"].tolist() == [3.0, 4.0]
    assert found["initial_distance"] == pytest.approx(2.5)
    assert found.flags == ()


def test_without_the_initial_network_the_distance_is_not_known() -> None:
    found = measured(digits_network(), digits())
    assert math.isnan(found["initial_distance"])
    assert found.flags == ("initial_distance is not known: the network was not trained here",)


@pytest.mark.parametrize("method", ["at", "self_supervision"])
def test_a_trial_knows_where_it_began(method: str, tmp_path: Path) -> None:
    """At a learning rate of nearly nothing it stays there; with a usual one the distance is that of the weights."""
    evaluation = Evaluation(measures=(Norms(),))
    regularizers = [{"name": "activation", "kind": "silu"}, {"name": "dropout", "rate": 0.1}]
    still = trial(method, regularizers, lr=1e-30, epochs=1)
    values = run_trial(still, evaluation, Folder(str(tmp_path / "still")))
    assert values["initial_distance"] == 0 < values["frobenius_norm"]
    moved = trial(method, regularizers, lr=0.05, epochs=1)
    values = run_trial(moved, evaluation, Folder(str(tmp_path / "moved")))
    begun = Trainer(moved, digits(), None, CPU).model
    ended = Trainer(moved, digits(), Folder(str(tmp_path / "moved" / "checkpoints")), CPU).model
    squares = [
        float((new - old).detach().double().square().sum())
        for (name, new), old in zip(ended.network.named_parameters(), begun.network.parameters(), strict=True)
        if name.endswith("weight") and "norm" not in name
    ]
    assert values["initial_distance"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-9)
    assert values["initial_distance"] > 0.1


# ---- as every measure -----------------------------------------------------------------------------------------------


def test_network_and_global_generator_are_as_before(trained: Classifier) -> None:
    trained.train()
    trained.network.linear.weight.requires_grad_(False)
    before, random = state(trained), torch.get_rng_state()
    steps = norms.steps(trained, digits(), Norms(), attack=Attack(), seed=0)
    next(steps)
    assert_same_state(before, state(trained))
    steps.close()
    first = measured(trained, digits())
    assert_same_state(before, state(trained))
    assert torch.equal(torch.get_rng_state(), random)
    assert measured(trained, digits()).values["spectral_norm_product"] == first["spectral_norm_product"]


def test_goes_on_where_it_was_stopped(trained: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = measured(trained, digits()), []
    real = spectral_norm
    monkeypatch.setattr(module, "spectral_norm", lambda layer, *rest: calls.append(layer) or real(layer, *rest))
    parts: dict[str, Any] = {}
    for stop in (3, 7):
        steps = norms.steps(trained, digits(), Norms(), attack=Attack(), seed=0, parts=parts)
        for _ in range(stop):
            next(steps)
        steps.close()
        parts = json.loads(json.dumps(parts))
    again = norms(trained, digits(), Norms(), attack=Attack(), seed=0, parts=parts)
    assert len(calls) == len(whole.arrays["spectral_norms"])
    assert again.flags == whole.flags
    assert {k: v for k, v in again.values.items() if not math.isnan(v)} == {
        k: v for k, v in whole.values.items() if not math.isnan(v)
    }
