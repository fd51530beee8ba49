"""Image by image, the regularisers of images equal torchvision's own operations at the same draws."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, v2
from torchvision.transforms import functional as TF  # noqa: N812
from toys import labels, seeded

from orchestrator.spec.regularizers import REGULARIZERS
from workers.labels import Labels
from workers.regularizers import images as image_regularizers

Pair = tuple[tuple[str, float, int | None], tuple[str, float, int | None]]
POLICY: list[Pair] = AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def build(name: str, **parameters: Any) -> Any:
    spec = REGULARIZERS.parse({"name": name, **parameters})
    return spec.load()(spec)


def pictures(count: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """uint8 images of five kinds in turn: noise, smooth, few grey levels, low contrast, one colour."""
    x = torch.randint(256, (count, channels, height, width), generator=seeded(0), dtype=torch.uint8)
    ramp = torch.linspace(0, 200, height)[:, None] + torch.linspace(0, 55, width)
    x[1::5] = (ramp + x[1::5, :, :1, :1] / 10).clamp(0, 255).to(torch.uint8)
    x[2::5] = x[2::5] // 100 * 90
    x[3::5] = 100 + x[3::5] // 20
    x[4::5] = x[4::5, :, :1, :1]
    return x


# ---- AutoAugment --------------------------------------------------------------------------------------------------


def both(x: Tensor, seed: int, policy: list[Pair] = POLICY) -> tuple[Tensor, Tensor]:
    """The pixels of our batch, and of torchvision's transform called on one image after the other."""
    ours, theirs = build("autoaugment"), AutoAugment(AutoAugmentPolicy.CIFAR10)
    ours.policy = theirs.policies = policy
    y = Labels(labels(len(x)), 3)
    found, _ = ours.transform(x / 255, y, seeded(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.stack([theirs(image) for image in x])
    return (found * 255).round().to(torch.uint8), expected


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 9, 5), (3, 2, 2)], ids=str)
def test_autoaugment_equals_torchvisions(shape: tuple[int, int, int], channels_last: bool) -> None:
    x = pictures(150, *shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for seed in range(3):
        found, expected = both(x, seed)
        assert torch.equal(found, expected)


LEVELS = {name: [None] if level is None else range(10) for pair in POLICY for name, _, level in pair}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "level"), [(name, level) for name in sorted(LEVELS) for level in LEVELS[name]])
def test_each_operation_equals_torchvisions(name: str, level: int | None, channels: int) -> None:
    """Always done, so with both signs; levels that the policy does not use too."""
    sides = (331, 331) if name.startswith("Translate") else (12, 11)  # shifts are whole pixels of a share of a side
    x = pictures(20, channels, *sides)
    found, expected = both(x, 1, [((name, 1.0, level), ("Invert", -1.0, None))])
    assert torch.equal(found, expected)


def test_each_sub_policy_equals_torchvisions() -> None:
    x = pictures(20, 3, 12, 11)
    for first, second in POLICY:
        found, expected = both(x, 2, [((first[0], 1.0, first[2]), (second[0], 1.0, second[2]))])
        assert torch.equal(found, expected), (first, second)


def test_an_operation_happens_up_to_its_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared in float32, where 0.1 is a little larger than in float64: 0.1 itself still counts."""
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full(size, 0.1))
    x = pictures(20)
    for limit, change in ((0.1, True), (0.0999, False)):
        found, expected = both(x, 3, [(("Invert", limit, None), ("Invert", -1.0, None))])
        assert torch.equal(found, expected) and torch.equal(found, 255 - x if change else x)


def test_autoaugment_seeds_no_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the accelerators either: `torch.manual_seed` would, also where none is in use yet."""

    def forbidden(*_: object) -> None:
        raise AssertionError("a global generator is seeded")

    for place in (torch, torch.random, torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all", "seed", "set_rng_state"):
            if hasattr(place, name):
                monkeypatch.setattr(place, name, forbidden)
    before = torch.get_rng_state()
    build("autoaugment").transform(pictures(5) / 255, Labels(labels(5), 3), seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


# ---- cutout, mixup, cutmix ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 12), width=st.integers(1, 12), size=st.integers(1, 14),
    fill=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_cutout_equals_torchvisions_erase(height: int, width: int, size: int, fill: float, seed: int) -> None:
    x = torch.rand(6, 3, height, width, generator=seeded(seed))
    found, _ = build("cutout", size=size, fill=fill).transform(x, Labels(labels(6), 3), seeded(seed))
    random = seeded(seed)
    rows, columns = (torch.randint(side, (6, 1), generator=random).flatten().tolist() for side in (height, width))
    for image, result, row, column in zip(x, found, rows, columns, strict=True):
        top, left = max(0, row - size // 2), max(0, column - size // 2)
        bottom, right = min(height, row - size // 2 + size), min(width, column - size // 2 + size)
        expected = TF.erase(image, top, left, bottom - top, right - left, torch.tensor(fill))
        assert torch.equal(result, expected)


def one_hot_or_soft(soft: bool) -> Labels:
    y = Labels(torch.tensor([0, 3, 1, 2, 3, 0]), 4)
    return y.softened(0.3) if soft else y


def mixed_in_pairs(theirs: Any, x: Tensor, y: Labels, order: Tensor) -> tuple[Tensor, Tensor]:
    """torchvision mixes each image with the one before it: so one batch of image j and image i for each i."""
    p = torch.eye(y.classes)[y.index] if y.probabilities is None else y.probabilities
    done = [theirs(x[[j, i]], p[[j, i]]) for i, j in enumerate(order.tolist())]
    return torch.stack([pair[0][1] for pair in done]), torch.stack([pair[1][1] for pair in done])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.77, 1.0])
def test_mixup_equals_torchvisions(weight: float, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, theirs = torch.rand(6, 3, 8, 7, generator=seeded(1)), one_hot_or_soft(soft), v2.MixUp(num_classes=4)
    theirs._dist = SimpleNamespace(sample=lambda _: torch.tensor([weight], dtype=torch.float64))
    monkeypatch.setattr(image_regularizers, "_beta", lambda *_: weight)
    for seed in range(4):
        found, mixed = build("mixup").transform(x, y, seeded(seed))
        expected, p = mixed_in_pairs(theirs, x, y, torch.randperm(6, generator=seeded(seed)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(mixed.probabilities, p, rtol=0, atol=1e-7)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("stays", [0.0, 0.1, 0.35, 0.6, 0.85, 0.99, 1.0])
def test_cutmix_equals_torchvisions(stays: float, soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stays` is lambda. torchvision draws the column first, we the row."""
    x, y, theirs = torch.rand(6, 3, 11, 8, generator=seeded(1)), one_hot_or_soft(soft), v2.CutMix(num_classes=4)
    theirs._dist = SimpleNamespace(sample=lambda _: torch.tensor([stays], dtype=torch.float64))
    monkeypatch.setattr(image_regularizers, "_beta", lambda *_: stays)
    boxes = set()
    for seed in range(12):
        found, mixed = build("cutmix").transform(x, y, seeded(seed))
        random = seeded(seed)
        centre = {side: torch.randint(side, (1,), generator=random) for side in (11, 8)}
        order = torch.randperm(6, generator=random)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda side, size, c=centre: c[side])
            expected, p = mixed_in_pairs(theirs, x, y, order)
        assert torch.equal(found, expected)
        torch.testing.assert_close(mixed.probabilities, p, rtol=0, atol=1e-6)
        boxes.add(tuple((found != x).any(0).any(0).flatten().tolist()))
    assert len(boxes) > 3 or stays > 0.98
