"""Networks without shortcuts, and the choice of normalisation, against torchvision, brute force and plain training."""

import math
from typing import Any

import pytest
import torch
from networks import NORMED, build, on_meta, side_for, some_splits, spec_of
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models import vgg, vgg16
from toys import CPU, digits, seeded, trial

from workers.data.splits import Images, Splits
from workers.models.layers import groups_of
from workers.steps import drain
from workers.training import Trainer


def shaken(model: nn.Module) -> nn.Module:
    """With every parameter and statistic away from its initial value."""
    random = seeded(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=random, dtype=tensor.dtype)
                tensor.copy_(tensor + 0.1 * noise if "var" in name else tensor + 0.1 * (noise - 0.5))
    return model


# ---- plain networks -------------------------------------------------------------------------------------------------


def test_vgg_equals_torchvisions_with_its_weights() -> None:
    """Theirs has convolution biases in front of the norms, which are put to zero."""
    ours = shaken(build("vgg16_bn", splits=some_splits(3, 32), width=8).network.double()).eval()
    narrow = [item if isinstance(item, str) else item // 8 for item in vgg.cfgs["D"]]
    theirs = vgg.make_layers(narrow, batch_norm=True).double().eval()
    missing = theirs.load_state_dict(ours.features.state_dict(), strict=False)
    assert not missing.unexpected_keys
    biases = [m.bias for m in theirs if isinstance(m, nn.Conv2d)]
    assert len(missing.missing_keys) == len(biases) == 13
    for bias in biases:
        nn.init.zeros_(bias)
    x = torch.rand(2, 3, 32, 32, generator=seeded(0), dtype=torch.float64)
    with torch.no_grad():
        assert theirs(x).shape == (2, 64, 1, 1)
        torch.testing.assert_close(ours(x), ours.linear(theirs(x).flatten(1)))


def test_vgg_without_norm_is_torchvisions_vgg16() -> None:
    ours = on_meta(spec_of("vgg16_bn", width=64, norm="none"), (3, 32, 32))
    with torch.device("meta"):
        theirs = vgg16(weights=None).features
    assert [(k, v.shape) for k, v in ours.features.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert [type(m) for m in ours.features] == [type(m) for m in theirs]


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_cnn_by_hand(norm: str) -> None:
    model = shaken(build("cnn", splits=some_splits(2, 8), width=16, depth=2, norm=norm).network.double()).eval()
    weights = dict(model.state_dict())
    x = torch.rand(3, 2, 8, 8, generator=seeded(0), dtype=torch.float64)
    out, layer = x, 0
    for stage in range(3):
        for _ in range(2):
            out = F.conv2d(out, weights[f"features.{layer}.weight"], weights.get(f"features.{layer}.bias"), padding=1)
            layer += 1
            if norm != "none":
                scale, shift = (weights[f"features.{layer}.{kind}"][:, None, None] for kind in ("weight", "bias"))
                if norm == "bn":
                    mean = weights[f"features.{layer}.running_mean"][:, None, None]
                    variance = weights[f"features.{layer}.running_var"][:, None, None]
                else:  # groups of 16 channels
                    groups = out.reshape(3, 2**stage, -1)
                    mean = groups.mean(2).repeat_interleave(16, 1)[:, :, None, None]
                    variance = groups.var(2, correction=0).repeat_interleave(16, 1)[:, :, None, None]
                out = (out - mean) / (variance + 1e-5).sqrt() * scale + shift
                layer += 1
            out = out.clamp_min(0)
            layer += 1
        if stage < 2:
            out = out.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
            layer += 1
    logits = out.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]
    torch.testing.assert_close(model(x), logits)


# ---- normalisation --------------------------------------------------------------------------------------------------


def test_groups_against_brute_force() -> None:
    for channels in range(1, 1300):
        allowed = [g for g in range(1, channels + 1) if channels % g == 0 and g <= 32 and channels / g >= 16]
        assert groups_of(channels) == max(allowed, default=1)
    assert [groups_of(c) for c in (16, 64, 160, 256, 512, 640, 37)] == [1, 4, 10, 16, 32, 32, 1]


@pytest.mark.parametrize("name", NORMED)
def test_norms_of_a_network(name: str) -> None:
    """Each kind has its layers only, in the same number; biases are where no norm shifts."""
    kinds = (nn.BatchNorm2d, nn.GroupNorm)
    counts, biases = {}, {}
    for norm in ("bn", "gn", "none"):
        modules = list(build(name, norm=norm).modules())
        counts[norm] = [sum(isinstance(m, kind) for m in modules) for kind in kinds]
        biases[norm] = sum(isinstance(m, nn.Conv2d) and m.bias is not None for m in modules)
    shortcuts = {"resnet18": 3, "wide_resnet": 2}.get(name, 0)  # whose biases the block's last convolution has
    assert counts["bn"][0] == counts["gn"][1] > 0 and counts["none"] == [0, 0]
    assert counts["bn"][1] == counts["gn"][0] == 0
    assert biases["bn"] == biases["gn"] == 0 < biases["none"]
    if "preact" not in name and name != "wide_resnet":
        assert biases["none"] + shortcuts == counts["bn"][0]  # one norm behind each convolution


@pytest.mark.parametrize("name", NORMED)
def test_only_bn_depends_on_the_rest_of_the_batch(name: str) -> None:
    for norm in ("bn", "gn", "none"):
        model = build(name, norm=norm).double().train()
        side = side_for(spec_of(name))
        x = torch.rand(5, 1, side, side, generator=seeded(0), dtype=torch.float64)
        alone, together = model(x[:2]), model(x)[:2]
        assert torch.allclose(alone, together, rtol=1e-9, atol=1e-12) == (norm != "bn")
        if norm != "bn":
            torch.testing.assert_close(model.eval()(x)[:2], alone)


# ---- without normalisation ------------------------------------------------------------------------------------------

DEEP: list[tuple[str, dict[str, Any]]] = [
    ("small_preact_resnet", {"width": 8, "blocks": 8}),
    ("preact_resnet18", {"width": 16}),
    ("resnet18", {"width": 16}),
    ("wide_resnet", {"depth": 40, "widen": 1}),
    ("vgg16_bn", {"width": 16}),
    ("cnn", {"width": 16, "depth": 4}),
]


@pytest.mark.parametrize(("name", "parameters"), DEEP)
def test_without_norm_signals_neither_vanish_nor_explode(name: str, parameters: dict[str, Any]) -> None:
    """With torch's initial weights VGG's features have a second moment of 1e-9; He's alone double it in every block."""
    side = side_for(spec_of(name))
    splits = some_splits(3, side)
    model = build(name, splits=splits, **parameters, norm="none")
    x = splits.train.x / 255
    _, features = model.logits_and_features(x)
    assert 0.01 < float(features.detach().pow(2).mean()) < 5
    F.cross_entropy(model(x), splits.train.y).backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert 0.01 < float(gradient.norm()) < 100


def test_without_norm_blocks_start_as_their_shortcuts() -> None:
    for name in ("preact_resnet18", "resnet18"):
        model = build(name, norm="none", width=8)
        blocks = list(model.network.blocks)
        x = torch.rand(2, 8, 8, 8, generator=seeded(0))
        torch.testing.assert_close(blocks[0](x), x)
        shortcut = blocks[2].shortcut(x)
        torch.testing.assert_close(blocks[2](x), shortcut if name.startswith("pre") else shortcut.clamp_min(0))
        fan_in = 8 * 9
        assert float(blocks[0].conv1.weight.detach().std()) == pytest.approx(
            math.sqrt(2 / fan_in / len(blocks)), rel=0.15
        )
        assert float(model.network.stem.weight.detach().std()) == pytest.approx(math.sqrt(2 / 9), rel=0.25)


def enlarged(splits: Splits) -> Splits:
    def four_times(part: Images) -> Images:
        return Images(part.x.repeat_interleave(4, 2).repeat_interleave(4, 3), part.y)

    return Splits(four_times(splits.train), four_times(splits.validation), four_times(splits.test), 10, "")


@pytest.mark.parametrize("norm", ["gn", "none"])
@pytest.mark.parametrize("name", ["preact_resnet18", "resnet18", "vgg16_bn", "cnn"])
def test_training_starts_with_any_norm(name: str, norm: str) -> None:
    """Digits are learnt to half the loss of chance. VGG wants smaller steps than with `bn`, with `gn` above all."""
    spec = spec_of(name, norm=norm, width=8)
    splits = enlarged(digits()) if name == "vgg16_bn" else digits()
    rate = 0.02 if name != "vgg16_bn" else 0.01 if norm == "none" else 0.003
    recipe = trial("standard", epochs=8, lr=rate, batch_size=20)
    trainer = Trainer(recipe.model_copy(update={"model": spec}), splits, None, CPU)
    losses: list[float] = []
    for progress in trainer.run():
        losses += [] if progress.loss is None else [progress.loss]
    assert losses[0] < 3 and losses[-1] < math.log(10) / 2


def test_norm_takes_part_in_training_bit_for_bit_the_same_twice() -> None:
    def weights() -> list[Tensor]:
        recipe = trial("at", epochs=1).model_copy(update={"model": spec_of("small_preact_resnet", norm="gn")})
        trainer = Trainer(recipe, digits(), None, CPU)
        drain(trainer.run())
        return [p.detach().clone() for p in trainer.model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))
