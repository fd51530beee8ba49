"""What handles networks works with each of them: heads, activations, dropout, flatness, statistics, gradients."""

import copy
from typing import Any

import pytest
import torch
from networks import FAMILIES, SMALL, build, images_on_meta, on_meta, side_for, some_splits, spec_of
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import StochasticDepth
from toys import CPU, assert_same_state, seeded, state, trial

from orchestrator.spec.architectures import ARCHITECTURES
from orchestrator.spec.models import Model
from orchestrator.spec.regularizers import REGULARIZERS
from workers.models.classifier import Classifier
from workers.regularizers.weight_averaging import estimate_statistics
from workers.training import Trainer, weights_digest
from workers.weights import NORMALISATION, perturbed_tensors

CASES = [
    *(spec_of(name) for name in SMALL if name != "torchvision"),
    *(spec_of(name, norm=norm) for name in ("resnet18", "vgg16_bn") for norm in ("gn", "none")),
    *(spec_of("torchvision", architecture=name) for name in FAMILIES),
]
ODD = ("alexnet", "convnext_tiny", "mobilenet_v3_small", "swin_v2_t", "vit_b_32")
SLOW = [spec for spec in CASES if spec.name == "torchvision" and not spec.label().endswith(tuple(f"{n})" for n in ODD))]
"""Families of the usual layers only, deep ones: their second derivatives take a second each."""
every_network = pytest.mark.parametrize("spec", CASES, ids=lambda spec: spec.label())


def meta_classifier(spec: Model) -> tuple[Classifier, Tensor]:
    side = next(side for side in range(32, 100) if spec.misfit(side, side) is None)
    model = Classifier(on_meta(spec, (3, side, side)), torch.zeros(3), torch.ones(3)).to("meta")
    return model, images_on_meta((3, side, side))


def regularizer(name: str, **parameters: Any) -> Any:
    spec = REGULARIZERS.parse({"name": name, **parameters})
    return spec.load()(spec)


# ---- the last linear layer, dropout in front of it ------------------------------------------------------------------


@every_network
def test_the_last_linear_layer_makes_the_logits(spec: Model) -> None:
    """Also with dropout in front of it and with heads beside the network."""
    model, x = meta_classifier(spec)
    linear = model.last_linear
    made: list[Tensor] = []
    linear.register_forward_hook(lambda _module, _inputs, out: made.append(out))
    seen: list[Tensor] = []
    model.network.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    for _ in range(2):
        logits, features = model.logits_and_features(x)
        assert made[-1] is seen[-1] and logits is seen[-1]
        assert features.shape == (2, linear.in_features) and logits.shape == (2, linear.out_features) == (2, 10)
        regularizer("dropout", rate=0.5).extend(model)
        model.heads["rotation"] = nn.Linear(linear.in_features, 4, device="meta")
        assert model.last_linear is linear
    dropped = [m for m in model.modules() if isinstance(m, nn.Sequential) and len(m) == 2 and m[1] is linear]
    assert len(dropped) == 1 and isinstance(dropped[0][0], nn.Dropout) and dropped[0][0].p == 0.5


@pytest.mark.parametrize("name", SMALL)
def test_features_times_matrix_are_the_logits(name: str) -> None:
    model = build(name).double().eval()
    side = side_for(spec_of(name))
    logits, features = model.logits_and_features(torch.rand(3, 1, side, side, dtype=torch.float64))
    torch.testing.assert_close(logits, features @ model.last_linear.weight.T + model.last_linear.bias)


# ---- activations ----------------------------------------------------------------------------------------------------


class ReluCalls(TorchDispatchMode):
    """Counts every ReLU that is computed, module or function."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += name in {"relu", "relu_", "clamp_min", "clamp_min_", "threshold"}
        return func(*args, **(kwargs or {}))


def relus_after_replacing(spec: Model) -> int | None:
    """ReLUs that are left after `activation`; None where there is nothing to replace."""
    model, x = meta_classifier(spec)
    try:
        regularizer("activation", kind="tanh").extend(model)
    except ValueError:
        return None
    with ReluCalls() as calls:
        model.eval()(x)
    return calls.count


def check_relu(spec: Model) -> None:
    replaced_all = relus_after_replacing(spec) == 0
    table_only = "swin_v2" in spec.label()  # its ReLUs make the table of position biases; its activations are GELU
    assert spec.has_relu == (replaced_all and not table_only)


@every_network
def test_has_relu_is_found_by_replacing(spec: Model) -> None:
    check_relu(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in FAMILIES])
def test_has_relu_of_all_others(name: str) -> None:
    check_relu(spec_of("torchvision", architecture=name))


def test_relus_are_counted() -> None:
    """The mode above sees them: 17 in the CIFAR ResNet-18, none of which a table of names could hide."""
    model, x = meta_classifier(spec_of("resnet18"))
    with ReluCalls() as calls:
        model.eval()(x)
    assert calls.count == 17
    assert relus_after_replacing(spec_of("torchvision", architecture="densenet121")) == 1
    assert relus_after_replacing(spec_of("torchvision", architecture="vit_b_32")) is None


# ---- flatness -------------------------------------------------------------------------------------------------------

OUTSIDE = {
    "positions",
    "class_token",
    "pos_embedding",
    "relative_position_bias_table",
    "logit_scale",
    "layer_scale",
}
"""Parameters that are neither of a normalisation nor of a convolution or linear layer."""


@every_network
def test_perturbed_tensors(spec: Model) -> None:
    """All but normalisation and the parameters above; among them attention's packed matrix, a linear layer's."""
    model, _ = meta_classifier(spec)
    model.heads["rotation"] = nn.Linear(3, 4, device="meta")
    norms = {id(p) for m in model.modules() if isinstance(m, NORMALISATION) for p in m.parameters(recurse=False)}
    expected = {
        name: parameter
        for name, parameter in model.network.named_parameters()
        if id(parameter) not in norms and name.rpartition(".")[2] not in OUTSIDE
    }
    found = perturbed_tensors(model)
    assert [id(p) for p in found] == [id(p) for p in expected.values()]  # in order, each once
    last = {name.rpartition(".")[2] for name in expected}
    assert {"weight"} <= last <= {"weight", "bias", "in_proj_weight", "in_proj_bias"}
    assert ("in_proj_weight" in last) == ("vit_b_32" in spec.label())


def test_vits_perturbed_tensors() -> None:
    model = build("vit_small")
    names = {id(p): name for name, p in model.named_parameters()}
    layers = ["attention.qkv", "attention.out", "mlp.0", "mlp.2"]
    expected = [
        f"network.{layer}.{kind}"
        for layer in ["patches", *(f"blocks.{i}.{layer}" for i in range(2) for layer in layers), "linear"]
        for kind in ("weight", "bias")
    ]
    assert [names[id(p)] for p in perturbed_tensors(model)] == expected


def test_attention_with_unequal_sizes() -> None:
    """torch then keeps three matrices; its extra keys and values belong to no linear layer."""
    attention = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True)
    names = {id(p): name for name, p in attention.named_parameters()}
    assert {names[id(p)] for p in perturbed_tensors(attention)} == {
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "in_proj_bias",
        "out_proj.weight",
        "out_proj.bias",
    }


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, id=spec.label(), marks=[pytest.mark.slow] * (spec in SLOW)) for spec in CASES],
)
def test_every_parameter_has_a_gradient(spec: Model) -> None:
    """In training mode: SAM and AWP take the gradient of every one. And a second derivative of the input's exists."""
    model, x = meta_classifier(spec)
    x.requires_grad_(True)
    loss = F.cross_entropy(model.train()(x), torch.zeros(2, dtype=torch.int64, device="meta"))
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert gradient.shape == x.shape
    parameters = list(model.parameters())
    assert len(torch.autograd.grad(loss, parameters, retain_graph=True)) == len(parameters)  # raises at an unused one
    second = torch.autograd.grad(gradient.pow(2).sum(), parameters, allow_unused=True)
    assert any(item is not None for item in second)


@pytest.mark.parametrize("name", ["cnn", "vgg16_bn", "vit_small"])
def test_weight_gradients_equal_finite_differences(name: str) -> None:
    """Along a random direction of all weights, in training mode."""
    side = side_for(spec_of(name))
    model = build(name).double().train()
    x = torch.rand(4, 1, side, side, generator=seeded(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3])
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(parameters)]
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    ends = []
    for step in (1e-7, -1e-7):
        with torch.no_grad():
            moved = copy.deepcopy(model)
            for parameter, direction in zip(moved.parameters(), directions, strict=True):
                parameter.add_(step * direction)
            ends.append(float(F.cross_entropy(moved(x), y)))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-3)


# ---- statistics and randomness --------------------------------------------------------------------------------------


def random_depth() -> Classifier:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), StochasticDepth(0.5, "row"), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 10)
    )
    return Classifier(net, torch.zeros(1), torch.ones(1))


def test_statistics_are_those_without_dropout() -> None:
    model, images = random_depth(), some_splits(1, 8).train
    model.train()
    model.network[4].eval()
    before = state(model)
    torch.manual_seed(5)
    estimate_statistics(model, images, 40)
    expected = torch.rand(1, generator=seeded(5))
    assert torch.equal(torch.rand(1), expected)  # nothing was drawn
    features = model.network[0]((images.x / 255 - model.mean) / model.std)
    torch.testing.assert_close(model.network[2].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(model.network[2].running_var, features.var((0, 2, 3)))
    before["tensors"] = {k: v for k, v in before["tensors"].items() if "running" not in k and "tracked" not in k}
    assert_same_state(before, state(model))


def trained(spec: Model, outside: int, *parts: Any) -> str:
    torch.manual_seed(outside)
    recipe = trial("standard", parts, epochs=1, batch_size=4, lr=1e-3).model_copy(update={"model": spec})
    splits = some_splits(1, max(side_for(spec), spec.smallest_side), count=8)
    trainer = Trainer(recipe, splits, None, CPU)
    steps = trainer.run()
    for _ in steps:
        pass
    return weights_digest(trainer.model)


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("vit_small"),
        *(spec_of("torchvision", architecture=name) for name in ("efficientnet_b0", "mobilenet_v3_small")),
    ],
    ids=lambda spec: spec.label(),
)
def test_training_is_a_function_of_the_seed(spec: Model) -> None:
    """Random depth and dropout draw from the step's seed; averaging estimates the statistics anew."""
    parts = ({"name": "weight_averaging", "decay": 0.5}, {"name": "input_gradient", "weight": 1e-6}, "sam")
    assert trained(spec, 1, *parts) == trained(spec, 2, *parts)


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "mobilenet_v3_small"])
def test_dropout_and_random_depth_act_in_training_only(architecture: str) -> None:
    model = build("torchvision", architecture=architecture)
    x = torch.rand(4, 1, 32, 32, generator=seeded(0))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model(x))
        for module in model.modules():
            module.training = isinstance(module, nn.Dropout | StochasticDepth)
        assert not torch.equal(model(x), model(x))
