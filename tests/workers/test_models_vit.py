"""The vision transformer against torch's encoder layer, its formula's parameter count and finite differences."""

import math
from typing import Any

import pytest
import torch
from networks import build, on_meta, some_splits, spec_of
from pydantic import ValidationError
from torch import nn
from toys import CPU, digits, seeded, trial

from orchestrator.spec.models import MODELS
from workers.models.vit import Block, VisionTransformer
from workers.training import Trainer


@pytest.mark.parametrize(
    ("parameters", "shape", "classes"),
    [
        ({}, (3, 32, 32), 10),
        ({}, (3, 32, 32), 100),
        ({"patch": 2, "width": 64, "depth": 3, "heads": 4}, (1, 8, 8), 10),
        ({"patch": 7, "width": 30, "depth": 2, "heads": 5}, (1, 28, 14), 3),
    ],
)
def test_parameter_count(parameters: dict[str, Any], shape: tuple[int, int, int], classes: int) -> None:
    """Patches p^2 C W + W; positions N W; a block 12 W^2 + 13 W; norm 2 W; linear layer W K + K."""
    spec: Any = MODELS.parse({"name": "vit_small", **parameters})
    p, w = spec.patch, spec.width
    patches = shape[1] * shape[2] // p**2
    expected = p**2 * shape[0] * w + w + patches * w + spec.depth * (12 * w**2 + 13 * w) + 2 * w + w * classes + classes
    assert sum(parameter.numel() for parameter in on_meta(spec, shape, classes).parameters()) == expected


def test_size_is_that_of_deit_small() -> None:
    """Touvron et al. 2021 (arXiv 2012.12877), table 1: 384 numbers, 12 layers, 6 heads; 22 M parameters with 1000
    classes and patches of 16 pixels at 224."""
    network = on_meta(MODELS.parse({"name": "vit_small", "patch": 16}), (3, 224, 224), 1000)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == 22


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_block_equals_torchs_encoder_layer(heads: int) -> None:
    torch.manual_seed(0)
    ours = Block(12, heads).double()
    theirs = nn.TransformerEncoderLayer(
        12, heads, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    names = {
        "norm1": "norm1",
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out": "self_attn.out_proj",
        "norm2": "norm2",
        "mlp.0": "linear1",
        "mlp.2": "linear2",
    }
    weights = {}
    for name, tensor in ours.state_dict().items():
        found = next(key for key in names if name.startswith(key))
        weights[names[found] + name.removeprefix(found)] = tensor
    theirs.load_state_dict(weights)
    x = torch.randn(2, 7, 12, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs.train()(x))


def test_network_by_hand() -> None:
    """Each patch is a row of pixels times one matrix; positions are added; the mean of the patches is classified."""
    net = VisionTransformer((2, 4, 6), patch=2, width=6, depth=2, heads=2, classes=3).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=seeded(parameter.numel()))
    x = torch.rand(3, 2, 4, 6, generator=seeded(0), dtype=torch.float64)
    rows = [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1) for i in range(2) for j in range(3)]
    tokens = torch.stack([row @ net.patches.weight.flatten(1).T + net.patches.bias for row in rows], 1) + net.positions
    for block in net.blocks:
        tokens = block(tokens)
    features = nn.functional.layer_norm(tokens, (6,), net.norm.weight, net.norm.bias).sum(1) / 6
    torch.testing.assert_close(net(x), features @ net.linear.weight.T + net.linear.bias)


def test_without_positions_the_order_of_patches_is_lost() -> None:
    """So the learned positions are what tells patches apart, and they are not zero at the start."""
    model = build("vit_small", splits=some_splits(1, 8)).double()
    x = torch.rand(2, 1, 8, 8, generator=seeded(0), dtype=torch.float64)
    turned = torch.cat([x[:, :, 2:], x[:, :, :2]], 2)  # whole rows of patches change places
    assert not torch.allclose(model(x), model(turned), rtol=1e-6)
    nn.init.zeros_(model.network.positions)
    torch.testing.assert_close(model(x), model(turned))


def test_initial_weights() -> None:
    net = build("vit_small", splits=some_splits(3, 32), width=96, patch=4, heads=6).network
    block = net.blocks[0]
    for weight, deviation in (
        (net.positions, 0.02),
        (net.patches.weight, math.sqrt(1 / 48)),
        (block.attention.qkv.weight, math.sqrt(2 / (96 + 288))),
        (block.mlp[0].weight, math.sqrt(2 / (96 + 384))),
    ):
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)
    assert not any(m.bias.any() for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def test_derivatives_equal_finite_differences() -> None:
    net = VisionTransformer((1, 4, 4), patch=2, width=4, depth=1, heads=2, classes=2).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=seeded(parameter.numel()))
    x = torch.rand(1, 1, 4, 4, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (x,))
    assert torch.autograd.gradgradcheck(net, (x,))


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="7 heads do not divide the width 384"):
        MODELS.parse({"name": "vit_small", "heads": 7})
    assert spec_of("vit_small", heads=4).misfit(8, 8) is None


def test_learns_digits() -> None:
    recipe = trial("standard", epochs=15, batch_size=20)
    trainer = Trainer(recipe.model_copy(update={"model": spec_of("vit_small", width=24)}), digits(), None, CPU)
    losses = [progress.loss for progress in trainer.run() if progress.loss is not None]
    assert losses[-1] < math.log(10) / 2
