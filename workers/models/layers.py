"""What the networks share: convolutions, normalisation, and initial weights for networks without it."""

from torch import nn

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


def he_initialise(network: nn.Module) -> None:
    """Every convolution keeps the second moment of what comes before a ReLU (He et al. 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
