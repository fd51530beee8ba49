"""torchvision's networks: their list, published sizes, smallest images, and what is changed in them."""

import socket
import warnings
from typing import Any

import pytest
import torch
from networks import FAMILIES, build, images_on_meta, on_meta, some_splits, spec_of, takes_side
from pydantic import ValidationError
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer
from toys import seeded

from orchestrator.spec import architectures
from orchestrator.spec.architectures import ARCHITECTURES, LEFT_OUT, PATCHES
from orchestrator.spec.models import MODELS
from workers.data.splits import Images, Splits
from workers.failures import DataError
from workers.models.vision import HardSigmoid, PlainAttention


def test_the_list_is_torchvisions() -> None:
    assert sorted([*ARCHITECTURES, *LEFT_OUT]) == sorted(models.list_models(module=models))
    assert not set(ARCHITECTURES) & set(LEFT_OUT)
    assert set(PATCHES) == {name for name in ARCHITECTURES if name.startswith("vit_")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "no architecture 'resnet81'; did you mean 'resnet18'?"),
        ("ResNet50", "did you mean 'resnet50'?"),
        ("squeezenet1_1", "cannot be used: it ends in a convolution"),
        ("maxvit_t", "cannot be used: its 7x7 windows"),
        (18, "Input should be"),
    ],
)
def test_unknown_architectures(name: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MODELS.parse({"name": "torchvision", "architecture": name})
    assert message in str(caught.value)


def test_left_out_for_a_reason() -> None:
    for name in ("squeezenet1_0", "squeezenet1_1"):
        with torch.device("meta"):
            modules = list(models.get_model(name, weights=None).modules())
        assert not any(isinstance(module, nn.Linear) for module in modules)
    with pytest.raises(ValueError, match="not divisible by partition size 7"), torch.device("meta"):
        models.maxvit_t(weights=None, input_size=(32, 32))


def published(name: str) -> int:
    """Parameters with 1000 classes, as torchvision states them; Inception's with its auxiliary head."""
    count: int = models.get_model_weights(name).DEFAULT.meta["num_params"]
    if name == "inception_v3":  # two convolutions with norms, and a linear layer
        count -= 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    return count


def size_of(name: str) -> int:
    """Side of the images that torchvision's weights are for."""
    side: int = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
    return max(side, 224)


def check(name: str) -> None:
    """Everything that can be seen of an architecture without memory for its weights."""
    spec = spec_of("torchvision", architecture=name)
    full = on_meta(spec, (3, size_of(name), size_of(name)), 1000)
    assert sum(parameter.numel() for parameter in full.parameters()) == published(name)
    side = spec.smallest_side
    assert takes_side(spec, side) and not takes_side(spec, side - 1)
    assert spec.misfit(side, side) is None and spec.misfit(side, side - 1)
    network = on_meta(spec, (1, side, side), 7).train()
    assert network(images_on_meta((1, side, side))).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_one_of_each_family(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in FAMILIES])
def test_all_others(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121"])
def test_logits_are_torchvisions(name: str) -> None:
    """What is changed in them (no in-place layers, another hard sigmoid) changes no value."""
    ours = build("torchvision", splits=some_splits(3, 32), architecture=name).network
    theirs = models.get_model(name, weights=None, num_classes=10)
    theirs.load_state_dict(ours.state_dict())
    ours, theirs = ours.double(), theirs.double()
    x = torch.randn(4, 3, 32, 32, generator=seeded(0), dtype=torch.float64)
    for mode in (True, False):
        found = []
        for model in (ours, theirs):
            torch.manual_seed(0)  # dropout and random depth
            with torch.no_grad():
                found.append(model.train(mode)(x))
        torch.testing.assert_close(found[0], found[1])


def test_hard_sigmoid() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(HardSigmoid()(x), nn.functional.hardsigmoid(x))


def test_initial_weights_are_torchvisions_own() -> None:
    """Three channels: the same draws from the same seed. One: all but the first convolution's deviation stays."""
    spec = spec_of("torchvision", architecture="shufflenet_v2_x0_5")
    torch.manual_seed(3)
    ours = spec.load()(spec, (3, 32, 32), 10)
    torch.manual_seed(3)
    theirs = models.shufflenet_v2_x0_5(weights=None, num_classes=10)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    grey = spec.load()(spec, (1, 32, 32), 10)
    assert [p.shape for p in grey.parameters()][1:] == [p.shape for p in theirs.parameters()][1:]
    assert next(grey.parameters()).shape == (24, 1, 3, 3)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_nothing_is_downloaded_and_nobody_warned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    spec = spec_of("torchvision", architecture=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_meta(spec, (3, 32, 32))


def test_attention_can_be_differentiated_twice() -> None:
    """On the CPU torch's fused attention cannot, which is why it is not used."""
    torch.manual_seed(0)
    plain = TorchvisionTransformer(8, 4, 1, 2, 8, 16, num_classes=3).double()
    nn.init.normal_(plain.heads[0].weight)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    network = PlainAttention(plain)
    torch.testing.assert_close(network(x), plain(x))
    (gradient,) = torch.autograd.grad(network(x)[:, 0].sum(), x, create_graph=True)
    direction = torch.randn(x.shape, generator=seeded(0), dtype=torch.float64)
    (product,) = torch.autograd.grad((gradient * direction).sum(), x)
    assert bool(product.abs().max() > 0)
    step = 1e-5
    ends = [torch.autograd.grad(network(x + sign * step * direction)[:, 0].sum(), x)[0] for sign in (1, -1)]
    torch.testing.assert_close(product, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-7)
    with pytest.raises(RuntimeError, match="not implemented"):
        (gradient,) = torch.autograd.grad(plain(x)[:, 0].sum(), x, create_graph=True)
        torch.autograd.grad(gradient.sum(), x)


def test_a_vit_takes_squares_of_whole_patches() -> None:
    spec = spec_of("torchvision", architecture="vit_b_16")
    assert spec.smallest_side == 32 and spec.misfit(48, 48) is None
    assert "square images" in str(spec.misfit(32, 48))
    assert "multiples of its patches' 16 pixels" in str(spec.misfit(40, 40))
    part = Images(some_splits(3, 32).train.x[:, :, :, :24], torch.arange(40) % 10)
    with pytest.raises(DataError, match="at least 32"):
        build("torchvision", splits=Splits(part, part, part, 10, ""), architecture="vit_b_16")
    assert spec_of("torchvision", architecture="resnet18").misfit(32, 48) is None


def test_smallest_sides() -> None:
    """All but two take CIFAR's images, or are ViTs of larger patches."""
    larger = {name for name in ARCHITECTURES if architectures.smallest_side(name) > 32}
    assert larger == {"alexnet", "inception_v3", "vit_b_32", "vit_l_32"}
