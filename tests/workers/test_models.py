"""The networks: published parameter counts, shapes, initial weights, memory layout, standardised inputs."""

from typing import Any

import pytest
import torch
from networks import SMALL, build, images_on_meta, on_meta, some_splits, spec_of, takes_side
from torch import nn
from toys import digits, seeded

from orchestrator.spec.models import MODELS
from workers.data.splits import Images, Splits
from workers.failures import DataError, ErrorClass, classify
from workers.models.layers import spatial_mean
from workers.training import weights_digest


def test_every_model_is_tested() -> None:
    assert set(SMALL) == set(MODELS.classes())


@pytest.mark.parametrize(
    ("spec", "classes", "count"),
    [
        # the CIFAR variants that everybody uses; Wu20's PreActResNet-18 has a last norm of 2 * 512 more parameters
        # than the 11,171,146 of the version without one
        ({"name": "resnet18"}, 10, 11_173_962),
        ({"name": "preact_resnet18"}, 10, 11_171_146 + 1024),
        ({"name": "wide_resnet"}, 10, 36_479_194),
        ({"name": "wide_resnet", "depth": 34}, 10, 46_160_474),
        ({"name": "resnet18"}, 100, 11_220_132),
        # 14,728,266 in the version with convolution biases in front of the norms, of which there are 4,224
        ({"name": "vgg16_bn"}, 10, 14_728_266 - 4_224),
        ({"name": "vgg16_bn", "norm": "none"}, 10, 14_728_266 - 2 * 4_224),
    ],
)
def test_published_parameter_counts(spec: dict[str, Any], classes: int, count: int) -> None:
    network = on_meta(MODELS.parse(spec), (3, 32, 32), classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_depth_of_the_wide_network() -> None:
    """Zagoruyko & Komodakis count the convolutions on the main path and the linear layer: 6n + 4 with the stem, the
    linear layer and a shortcut convolution in two of the three stages (all three when widened)."""
    for depth in (10, 28, 34):
        network = on_meta(spec_of("wide_resnet", depth=depth, widen=2), (3, 32, 32))
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == depth - 4 + 1 + 1 + 3


SIZES = [(1, 8, 10), (1, 28, 10), (3, 32, 100)]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "side", "classes"), SIZES)
def test_output_shapes(name: str, channels: int, side: int, classes: int) -> None:
    splits = some_splits(channels, side, classes)
    if problem := spec_of(name).misfit(side, side):
        with pytest.raises(DataError, match="needs images of at least") as caught:
            build(name, splits=splits)
        assert str(caught.value) == problem and classify(caught.value) == ErrorClass.BAD_DATA
        return
    model = build(name, splits=splits)
    for count in (1, 3):
        logits = model.eval()(splits.test.x[:count] / 255)
        assert logits.shape == (count, classes) and logits.dtype == torch.float32 and bool(logits.isfinite().all())


@pytest.mark.parametrize("name", SMALL)
def test_every_network_takes_cifars_images(name: str) -> None:
    assert spec_of(name).misfit(32, 32) is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *((name, {}) for name in SMALL if name != "torchvision"),
        ("small_preact_resnet", {"blocks": 3, "norm": "gn"}),
        ("wide_resnet", {"depth": 16, "norm": "none"}),
        ("cnn", {"depth": 3}),
        ("vgg16_bn", {"norm": "none"}),
        ("vit_small", {"patch": 3}),
        ("vit_small", {"patch": 1}),
    ],
)
def test_smallest_side_is_found_by_trying(name: str, parameters: dict[str, Any]) -> None:
    spec = spec_of(name, **parameters)
    tried = range(1, spec.smallest_side + 5)
    sides = [side for side in tried if takes_side(spec, side)]
    assert spec.smallest_side == sides[0]
    assert sides == [side for side in tried if spec.misfit(side, side) is None]


@pytest.mark.parametrize("name", [name for name in SMALL if name != "torchvision"])
def test_oblong_images(name: str) -> None:
    spec = spec_of(name)
    side = spec.smallest_side
    assert spec.misfit(side, side + 4) is None
    assert on_meta(spec, (2, side, side + 4))(images_on_meta((2, side, side + 4))).shape == (2, 10)
    assert spec.misfit(side + 4, side - 1) and spec.misfit(side - 1, side + 4)


def test_misfit_names_network_and_sizes() -> None:
    assert spec_of("vgg16_bn").misfit(8, 30) == "vgg16_bn(width=4) needs images of at least 32 x 32 pixels, not 8 x 30"
    assert str(spec_of("vit_small", patch=5).misfit(10, 12)).endswith("multiples of its patches' 5 pixels, not 10 x 12")


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18"])
def test_stages_halve_the_resolution(name: str) -> None:
    model, sizes = build(name, splits=some_splits(3, 32)), []
    for block in model.network.blocks:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    model(torch.rand(1, 3, 32, 32))
    assert sizes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2


@pytest.mark.parametrize("name", SMALL)
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    torch.manual_seed(1)
    first = weights_digest(build(name))
    torch.manual_seed(2)
    torch.rand(7)
    assert weights_digest(build(name)) == first
    assert weights_digest(build(name, seed=1)) != first
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build(name)
    assert torch.equal(torch.rand(1), expected)  # the global random state is left alone


@pytest.mark.parametrize(
    ("name", "seed", "parameters", "digest"),
    [
        ("small_preact_resnet", 0, {}, "cb1f88ecdd4b2538db1ecda3cc9a8cfbd3a915cc65251e5da7ef24d3cdbc07c6"),
        ("small_preact_resnet", 3, {"width": 6, "blocks": 2},
         "286cf4e2ea3a7489d7a260ed8f736de356ebf496014c4f183eb2408a989d5345"),
        ("preact_resnet18", 0, {}, "44acce2890a9fdfcd578e4fcb395acea3c571908322f3f837b3855654b39fe08"),
        ("resnet18", 0, {}, "4efb7eabd9e7267121dd53b3f0f09933e9afc26862b0a0af681267878cf9123e"),
        ("wide_resnet", 0, {}, "9d94d781c30495044d833bae7fb1f1999b9b7cd845508d71d2493d96e25c8da9"),
    ],
)  # fmt: skip
def test_pinned_initial_weights(name: str, seed: int, parameters: dict[str, Any], digest: str) -> None:
    """Taken before there was a choice of normalisation: an old trial's id stands for the old weights."""
    assert weights_digest(build(name, seed, digits(), **parameters).network) == digest
    assert (weights_digest(build(name, seed, digits(), **parameters, norm="gn").network)) != digest


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_are_channels_last(name: str) -> None:
    convolutions = [m for m in build(name, splits=some_splits(3, 32)).modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)


def test_split_images_are_channels_last_too() -> None:
    assert digits().train.x.is_contiguous(memory_format=torch.channels_last)


def test_input_is_standardised_inside() -> None:
    splits = some_splits(3, 8, seed=4)
    model, seen = build("small_preact_resnet", splits=splits), []
    model.network.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    model(splits.train.x / 255)
    assert seen[0].mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(seen[0].std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_constant_channel_does_not_divide_by_zero() -> None:
    part = Images(torch.full((4, 1, 8, 8), 9, dtype=torch.uint8), torch.arange(4))
    model = build("small_preact_resnet", splits=Splits(part, part, part, 10, ""))
    assert bool(model.eval()(part.x / 255).isfinite().all())


def test_statistics_are_buffers_and_not_trained() -> None:
    model = build("small_preact_resnet")
    assert {"mean", "std"} <= set(model.state_dict())
    assert not {"mean", "std"} & {name for name, _ in model.named_parameters()}


def blocks_by_hand(block: Any, x: torch.Tensor, pre: bool) -> torch.Tensor:
    """He et al.'s two figures, written with functions."""
    f = nn.functional

    def norm(z: torch.Tensor, layer: nn.BatchNorm2d) -> torch.Tensor:
        assert layer.running_mean is not None and layer.running_var is not None
        return (z - layer.running_mean[:, None, None]) / (layer.running_var[:, None, None] + 1e-5).sqrt()

    if pre:
        active = norm(x, block.norm1).clamp_min(0)
        inner = f.conv2d(active, block.conv1.weight, stride=2, padding=1)
        inner = f.conv2d(norm(inner, block.norm2).clamp_min(0), block.conv2.weight, padding=1)
        return inner + f.conv2d(active, block.shortcut.weight, stride=2)
    inner = norm(f.conv2d(x, block.conv1.weight, stride=2, padding=1), block.norm1).clamp_min(0)
    inner = norm(f.conv2d(inner, block.conv2.weight, padding=1), block.norm2)
    return (inner + norm(f.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])).clamp_min(0)


@pytest.mark.parametrize(("name", "index"), [("preact_resnet18", 2), ("resnet18", 2)])
def test_block_equals_the_papers_figure(name: str, index: int) -> None:
    model = build(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5, generator=seeded(0))
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=seeded(1))
    block = model.network.blocks[index]
    x = torch.randn(2, 4, 8, 8, generator=seeded(2))
    torch.testing.assert_close(block(x), blocks_by_hand(block, x, name.startswith("pre")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_over_positions_and_its_gradient(layout: torch.memory_format) -> None:
    x = torch.rand(3, 5, 4, 2, dtype=torch.float64).to(memory_format=layout).requires_grad_(True)
    found = spatial_mean(x)
    torch.testing.assert_close(found, x.mean((2, 3)))
    weights = torch.rand(3, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    torch.testing.assert_close(gradient, (weights / 8)[:, :, None, None].expand(3, 5, 4, 2))
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_plain_networks_compute_their_layers_in_order(activation: type[nn.Module]) -> None:
    """Bit for bit, whichever of pooling and activation is computed first; half of each image is one flat tie."""
    network = build("cnn", splits=some_splits(3, 32)).network
    for place, layer in enumerate(network.features):
        if isinstance(layer, nn.ReLU):
            network.features[place] = activation()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x[..., 16:] = 0.5
    x.requires_grad_(True)
    found, expected = network(x), network.linear(spatial_mean(network.features(x)))
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(logits.square().sum(), [x, *network.parameters()]) for logits in (found, expected)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
