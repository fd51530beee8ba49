"""Batches and their augmentation against torchvision, numpy and counts."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as TF  # noqa: N812
from toys import CPU, numbered, numbers, seeded

from orchestrator.spec.data import Digits
from workers.data.arrays import Arrays
from workers.data.batches import TrainingBatches, random_crop, random_flip, to_unit
from workers.data.splits import Splits, cut, load_splits
from workers.models.classifier import channel_statistics


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12), channels=st.sampled_from([1, 3]), height=st.integers(3, 9), width=st.integers(3, 9),
    padding=st.integers(0, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_random_crop_equals_torchvisions(
    count: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    x = torch.randint(0, 256, (count, channels, height, width), generator=seeded(seed), dtype=torch.uint8)
    found = random_crop(x, padding, seeded(seed + 1))
    top, left = torch.randint(2 * padding + 1, (2, count), generator=seeded(seed + 1)).tolist()
    for image, result, t, le in zip(x, found, top, left, strict=True):
        assert torch.equal(result, TF.crop(TF.pad(image, [padding] * 4), t, le, height, width))


def test_random_crop_places_are_uniform_and_independent() -> None:
    x = torch.zeros(20_000, 1, 5, 5, dtype=torch.uint8)
    x[:, :, 2, 2] = 1
    found = random_crop(x, 2, seeded(0)).flatten(1).argmax(1)  # the dot went to any of the 25 pixels
    assert scipy.stats.chisquare(np.bincount(found.numpy(), minlength=25)).pvalue > 1e-3


def test_random_flip_equals_torchvisions() -> None:
    x = torch.randint(0, 256, (200, 3, 4, 5), generator=seeded(0), dtype=torch.uint8)
    found = random_flip(x, seeded(1))
    flipped = [torch.equal(result, TF.hflip(image)) for image, result in zip(x, found, strict=True)]
    kept = [torch.equal(result, image) for image, result in zip(x, found, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert scipy.stats.binomtest(sum(flipped), 200, 0.5).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_channel_statistics_equal_numpys(count: int, channels: int, seed: int) -> None:
    x = torch.randint(0, 256, (count, channels, 4, 4), generator=seeded(seed), dtype=torch.uint8)
    mean, std = channel_statistics(x)
    unit = x.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean.numpy(), unit.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std.numpy(), unit.std((0, 2, 3)), rtol=1e-5)


def test_to_unit_equals_division() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_array_equal(to_unit(levels).numpy(), np.arange(256, dtype=np.float32) / np.float32(255))


def batches(seed: int = 0, augmentation: str = "none", batch_size: int = 32) -> tuple[TrainingBatches, Splits]:
    splits = cut(numbered(150, 20), Digits(validation_size=10, test_size=20))
    return TrainingBatches(splits.train, Digits(augmentation=augmentation), batch_size, seed), splits


def epoch_of(source: TrainingBatches, epoch: int) -> list[int]:
    found = []
    for index in range(len(source)):
        x, y = source.batch(epoch, index)
        pairs = x.mul(255).round().to(torch.int64).flatten(1).tolist()
        found += [high * 256 + low for high, low in pairs]
        assert [n % 7 for n in found[-len(y) :]] == y.tolist()
        assert x.dtype == torch.float32 and float(x.min()) >= 0 and float(x.max()) <= 1
    return found


@pytest.mark.parametrize("batch_size", [32, 140, 1000, 1])
def test_every_training_image_once_an_epoch(batch_size: int) -> None:
    source, splits = batches(batch_size=batch_size)
    orders = [epoch_of(source, epoch) for epoch in range(2)]
    for order in orders:
        assert sorted(order) == sorted(numbers(splits.train))
    assert orders[0] != orders[1]


def test_batches_are_functions_of_seed_epoch_and_index() -> None:
    source, _ = batches(augmentation="crop_flip")
    forwards = {(e, i): source.batch(e, i) for e in range(2) for i in range(len(source))}
    other, _ = batches(augmentation="crop_flip")
    torch.manual_seed(5)
    for key in reversed(forwards):  # in another order, from another object
        x, y = other.batch(*key)
        assert torch.equal(x, forwards[key][0]) and torch.equal(y, forwards[key][1])
    different, _ = batches(seed=1, augmentation="crop_flip")
    assert not torch.equal(different.batch(0, 0)[0], forwards[0, 0][0])


def test_augmentation_is_a_crop_of_the_same_images_and_flips_only_if_told_so() -> None:
    splits = load_splits(Digits(), CPU)
    plain, crop, both = (
        TrainingBatches(splits.train, Digits(augmentation=kind, padding=1), 200, 0).batch(0, 0)
        for kind in ("none", "crop", "crop_flip")
    )
    assert torch.equal(plain[1], crop[1]) and torch.equal(plain[1], both[1])
    mirrored = 0
    for original, cropped, flipped in zip(plain[0], crop[0], both[0], strict=True):
        padded = TF.pad(original, [1] * 4)
        places = [TF.crop(padded, top, left, 8, 8) for top in range(3) for left in range(3)]
        assert any(torch.equal(cropped, place) for place in places)
        straight = any(torch.equal(flipped, place) for place in places)
        assert straight or any(torch.equal(flipped, TF.hflip(place)) for place in places)
        mirrored += not straight
    assert 60 < mirrored < 140


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
def test_batches_lie_channels_last(augmentation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
    spec = Digits(augmentation=augmentation, validation_size=0, test_size=10)
    splits = cut(Arrays(pixels, np.arange(30) % 10, None, None, 10), spec)
    x, _ = TrainingBatches(splits.train, spec, 8, 0).batch(0, 0)
    assert x.shape == (8, 3, 6, 5) and x.is_contiguous(memory_format=torch.channels_last)
