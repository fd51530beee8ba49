"""The regularisers of images, and how they mix labels, against brute force, counts and simulations."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from toys import labels, regularizer, seeded

from workers.labels import Labels
from workers.regularizers.base import BatchTransform


def bytes_as_images(count: int, side: int = 8, channels: int = 3) -> Tensor:
    return torch.randint(256, (count, channels, side, side), generator=seeded(0)).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_autoaugment_depends_on_the_generator_alone(channels: int) -> None:
    x, y, policy = bytes_as_images(60, 32, channels), Labels(labels(60), 3), regularizer("autoaugment")
    assert isinstance(policy, BatchTransform)
    found = []
    for outside, seed in ((1, 4), (2, 4), (1, 5)):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        z, kept = policy.transform(x, y, seeded(seed))
        assert kept is y and torch.equal(torch.get_rng_state(), before)
        assert z.shape == x.shape and z.dtype == torch.float32
        levels = z * 255
        assert torch.equal(levels.round() / 255, z) and bool(((levels >= 0) & (levels <= 255)).all())
        found.append(z)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    changed = (found[0] != x).flatten(1).any(1)
    assert int(changed.sum()) > 30  # each image has its own sub-policy
    assert torch.equal(x, bytes_as_images(60, 32, channels))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 3), (8, 6, 4), (5, 5, 1), (6, 6, 16)])
def test_cutout_paints_a_square_around_a_uniform_pixel(height: int, width: int, size: int) -> None:
    count = 20_000
    x = torch.ones(count, 2, height, width)
    found, kept = regularizer("cutout", size=size, fill=0.25).transform(x, y := Labels(labels(count), 3), seeded(0))
    assert kept is y and bool(x.eq(1).all())
    painted = found[:, 0] == 0.25
    assert torch.equal(found[:, 1] == 0.25, painted) and bool((found[:, 0][~painted] == 1).all())
    expected: dict[bytes, int] = {}
    for row in range(height):  # every centre there is
        for column in range(width):
            mask = np.zeros((height, width), dtype=bool)
            for i in range(row - size // 2, row - size // 2 + size):
                for j in range(column - size // 2, column - size // 2 + size):
                    if 0 <= i < height and 0 <= j < width:
                        mask[i, j] = True
            expected[mask.tobytes()] = expected.get(mask.tobytes(), 0) + 1
    seen = dict.fromkeys(expected, 0)
    for mask in painted.numpy():
        seen[mask.tobytes()] += 1  # a mask that no centre makes is a KeyError
    frequencies = np.array(list(expected.values())) / (height * width) * count
    if len(expected) > 1:
        assert scipy.stats.chisquare(list(seen.values()), frequencies).pvalue > 1e-3


def test_mixup_mixes_pixels_and_labels_alike() -> None:
    """Images that are their own label in their pixels: what the pixels say is what the label says."""
    y = Labels(torch.arange(7), 7)
    x = torch.eye(7).view(7, 1, 1, 7)
    indices = set()
    for seed in range(40):
        z, mixed = regularizer("mixup", alpha=0.7).transform(x, y, seeded(seed))
        p = mixed.probabilities
        assert p is not None
        torch.testing.assert_close(p.sum(1), torch.ones(7))
        torch.testing.assert_close(p, z.flatten(1))
        weight = float(p[0].max())
        if weight < 1:  # one weight and one permutation for the batch
            assert all(sorted(row.tolist())[:5] == [0] * 5 for row in p)
        assert all(float(p[i, mixed.index[i]]) >= 0.5 - 1e-6 for i in range(7))
        indices.add(torch.equal(mixed.index, y.index))
    assert indices == {True, False}


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixup_weight_is_beta(alpha: float) -> None:
    x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), Labels(torch.tensor([0, 1]), 2)
    weights = []
    for seed in range(1500):
        z, _ = regularizer("mixup", alpha=alpha).transform(x, y, seeded(seed))
        if float(z[0]) > 0:  # with probability 1/2 an image is its own partner, and the weight is not seen
            weights.append(1 - float(z[0]))
    assert 600 < len(weights) < 900
    assert scipy.stats.kstest(weights, "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_cutmix_labels_count_the_pixels() -> None:
    count, side = 6, 9
    y = Labels(torch.arange(count), count)
    x = (torch.arange(count).float() / 10).view(-1, 1, 1, 1).expand(-1, 2, side, side - 2).contiguous()
    shares, indices = [], set()
    for seed in range(300):
        z, mixed = regularizer("cutmix").transform(x, y, seeded(seed))
        p = mixed.probabilities
        assert p is not None
        for i in range(count):
            pixels = [float((z[i, 0] == x[k, 0, 0, 0]).float().mean()) for k in range(count)]
            np.testing.assert_allclose(p[i].numpy(), pixels, atol=1e-6)
            other = np.argwhere((z[i, 0] != x[i, 0, 0, 0]).numpy())
            if len(other):  # a full rectangle, the same in both channels
                assert len(other) == np.prod(np.ptp(other, axis=0) + 1)
                assert torch.equal(z[i, 0], z[i, 1])
                shares.append(1 - float(p[i, i]))
            assert float(p[i, mixed.index[i]]) >= 0.5 - 1e-6
        indices.add(torch.equal(mixed.index, y.index))
    assert indices == {True, False} and 0 < min(shares) < 0.1 and 0.6 < max(shares) <= 1
    assert float(x[3, 0, 0, 0]) == pytest.approx(0.3)  # the batch that was given is as it was


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_cutmix_shares_are_those_of_the_papers_rule(alpha: float) -> None:
    """Even sides of sqrt(1 - lambda) around a uniform pixel, clipped: the shares against a simulation with numpy."""
    side, draws = 32, 1500
    x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, side, side).contiguous(), Labels(torch.arange(2), 2)
    seen = [float(regularizer("cutmix", alpha=alpha).transform(x, y, seeded(s))[0][0].mean()) for s in range(draws)]
    found = np.array([share for share in seen if share > 0])  # with probability 1/2 an image is its own partner
    random = np.random.default_rng(0)
    half = (side * np.sqrt(1 - random.beta(alpha, alpha, 100_000)) / 2).astype(int)
    sides = []
    for _ in range(2):
        centre = random.integers(0, side, 100_000)
        sides.append(np.minimum(side, centre + half) - np.maximum(0, centre - half))
    share = sides[0] * sides[1] / side**2
    share = share[share > 0]
    error = share.std() / math.sqrt(len(found))
    assert len(found) > 500 and abs(found.mean() - share.mean()) < 4 * error
    assert scipy.stats.ks_2samp(found, share).pvalue > 1e-3


def test_mixed_soft_labels_stay_probabilities() -> None:
    y = Labels(labels(30), 3).softened(0.2)
    p = y.probabilities
    assert p is not None
    order = torch.randperm(30, generator=seeded(2))
    for weight in (0.2, 0.5, 0.9):
        mixed = y.mixed(order, weight)
        assert mixed.probabilities is not None
        expected = [[weight * a + (1 - weight) * b for a, b in zip(p[i], p[order[i]], strict=True)] for i in range(30)]
        torch.testing.assert_close(mixed.probabilities, torch.tensor(expected))
        assert torch.equal(mixed.index, y.index if weight >= 0.5 else y.index[order])
