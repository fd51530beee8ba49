"""The networks: published parameter counts, shapes, initial weights, memory layout, standardised inputs."""

from typing import Any

import pytest
import torch
from torch import nn
from toys import CPU, digits, seeded

from orchestrator.spec.models import MODELS
from workers.data.splits import Images, Splits
from workers.models.classifier import Classifier, build_classifier
from workers.training import weights_digest

SMALL: dict[str, dict[str, Any]] = {
    "small_preact_resnet": {"width": 4},
    "preact_resnet18": {"width": 4},
    "resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen": 1},
}


def build(name: str, seed: int = 0, splits: Splits | None = None, **parameters: Any) -> Classifier:
    spec = MODELS.parse({"name": name, **(parameters or SMALL[name])})
    return build_classifier(spec, splits or digits(), seed, CPU)


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
    ],
)
def test_published_parameter_counts(spec: dict[str, Any], classes: int, count: int) -> None:
    model = MODELS.parse(spec)
    with torch.device("meta"):
        network = model.load()(model, 3, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_depth_of_the_wide_network() -> None:
    """Zagoruyko & Komodakis count the convolutions on the main path and the linear layer: 6n + 4 with the stem, the
    linear layer and a shortcut convolution in two of the three stages (all three when widened)."""
    for depth in (10, 28, 34):
        model = MODELS.parse({"name": "wide_resnet", "depth": depth, "widen": 2})
        with torch.device("meta"):
            network = model.load()(model, 3, 10)
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == depth - 4 + 1 + 1 + 3


def some_splits(channels: int, side: int, classes: int, seed: int = 0) -> Splits:
    x = torch.randint(0, 200, (40, side, side, channels), generator=seeded(seed), dtype=torch.uint8)
    part = Images(x.permute(0, 3, 1, 2), torch.arange(40) % classes)
    return Splits(part, part, part, classes, "")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "side", "classes"), [(1, 8, 10), (1, 28, 10), (3, 32, 100)])
def test_output_shapes(name: str, channels: int, side: int, classes: int) -> None:
    splits = some_splits(channels, side, classes)
    model = build(name, splits=splits)
    for count in (1, 3):
        logits = model.eval()(splits.test.x[:count] / 255)
        assert logits.shape == (count, classes) and logits.dtype == torch.float32 and bool(logits.isfinite().all())


@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18"])
def test_stages_halve_the_resolution(name: str) -> None:
    model, sizes = build(name, splits=some_splits(3, 32, 10)), []
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


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_are_channels_last(name: str) -> None:
    convolutions = [m for m in build(name, splits=some_splits(3, 8, 10)).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) > 5
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)


def test_split_images_are_channels_last_too() -> None:
    assert digits().train.x.is_contiguous(memory_format=torch.channels_last)


def test_input_is_standardised_inside() -> None:
    splits = some_splits(3, 8, 10, seed=4)
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
