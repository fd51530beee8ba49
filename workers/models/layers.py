"""What the networks share: convolutions, normalisation, pooling, and initial weights for unnormalised networks."""

import torch
from torch import Tensor, nn

from orchestrator.spec.models import Norm

Shape = tuple[int, int, int]
"""Channels, height and width of the images."""

MOST_GROUPS = 32
"""Wu & He's default."""
SMALLEST_GROUP = 16
"""Channels in a group at least [ours]: on a 1x1 map a group of one is always 0, and one of two keeps only a sign."""


def conv(inside: int, outside: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by `stride` and rounds up."""
    return nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=bias)


def normalised_conv(norm: Norm, inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution beside a normalisation layer, whose shift takes its bias's place; without one it has a bias."""
    return conv(inside, outside, kernel, stride, bias=norm == "none")


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The layer that normalises `channels` channels; the identity for `none`."""
    if norm == "bn":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(groups_of(channels), channels) if norm == "gn" else nn.Identity()


def groups_of(channels: int) -> int:
    """The largest number of equal groups up to `MOST_GROUPS` that leaves `SMALLEST_GROUP` channels in each; else 1."""
    most = min(MOST_GROUPS, channels // SMALLEST_GROUP)
    return max((groups for groups in range(1, most + 1) if channels % groups == 0), default=1)


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over the positions of B x C x H x W features, B x C."""
    if x.is_contiguous(memory_format=torch.channels_last):
        # the same, with a gradient in the layout that the operations before it want (docs/benchmarks.md)
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
    return x.mean((2, 3))


def he_initialise(network: nn.Module) -> None:
    """Every convolution keeps the second moment of what comes before a ReLU (He et al. 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
