"""Residual networks with a 3x3 stem: pre-activation (He et al. 2016, arXiv 1603.05027), post-activation, wide."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.models import Norm, PreActResNet18, ResNet18, SmallPreActResNet, WideResNet
from workers.folding import Chain
from workers.models.layers import Shape, conv, he_initialise, normalisation, normalised_conv, spatial_mean


class PreActBlock(nn.Module):
    """norm - ReLU - conv - norm - ReLU - conv, plus the input (projected after the first ReLU if shapes differ)."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = normalisation(norm, inside), normalised_conv(norm, inside, outside, 3, stride)
        self.norm2, self.conv2 = normalisation(norm, outside), normalised_conv(norm, outside, outside, 3)
        self.shortcut = conv(inside, outside, 1, stride) if stride != 1 or inside != outside else None
        self.active1, self.active2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """B x inside x H x W to B x outside x H/stride x W/stride."""
        active = self.active1(self.norm1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        out = self.conv2(self.active2(self.norm2(self.conv1(active))))
        result: Tensor = out + skipped
        return result

    def chains(self) -> list[Chain]:
        """See `workers.folding`."""
        return [Chain(None, self.norm1, self.active1), Chain(self.conv1, self.norm2, self.active2)]


class PostActBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, plus the input (projected and normalised if shapes differ), ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = normalised_conv(norm, inside, outside, 3, stride), normalisation(norm, outside)
        self.conv2, self.norm2 = normalised_conv(norm, outside, outside, 3), normalisation(norm, outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv(inside, outside, 1, stride), normalisation(norm, outside))
        self.active1, self.active2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """B x inside x H x W to B x outside x H/stride x W/stride."""
        out = self.norm2(self.conv2(self.active1(self.norm1(self.conv1(x)))))
        result: Tensor = self.active2(out + self.shortcut(x))
        return result

    def chains(self) -> list[Chain]:
        """See `workers.folding`."""
        own = [Chain(self.conv1, self.norm1, self.active1), Chain(self.conv2, self.norm2, None)]
        if len(self.shortcut):
            own.append(Chain(self.shortcut[0], self.shortcut[1], None))
        return own


class ResNet(nn.Module):
    """Stem, stages of residual blocks (each stage after the first halves the resolution), average pool, linear layer.

    Args:
        block: PreActBlock or PostActBlock.
        stem: channels after the stem.
        widths: channels of each stage.
        blocks: blocks in each stage.
        channels: of the images.
        classes: number of logits.
        norm: kind of normalisation.
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PostActBlock],
        stem: int,
        widths: Sequence[int],
        blocks: int,
        channels: int,
        classes: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        pre_activation = block is PreActBlock
        self.stem = normalised_conv(norm, channels, stem, 3)
        self.stem_norm = None if pre_activation else normalisation(norm, stem)
        layers: list[PreActBlock | PostActBlock] = []
        inside = stem
        for stage, width in enumerate(widths):
            for index in range(blocks):
                layers.append(block(inside, width, stride=2 if stage > 0 and index == 0 else 1, norm=norm))
                inside = width
        self.blocks = nn.Sequential(*layers)
        self.last_norm = normalisation(norm, inside) if pre_activation else None
        self.active = nn.ReLU()
        self.linear = nn.Linear(inside, classes)
        if norm == "none":
            self._initialise_unnormalised(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, B x classes, of images B x channels x H x W."""
        out = self.stem(x)
        if self.stem_norm is not None:
            out = self.active(self.stem_norm(out))
        out = self.blocks(out)
        if self.last_norm is not None:
            out = self.active(self.last_norm(out))
        logits: Tensor = self.linear(spatial_mean(out))
        return logits

    def chains(self) -> list[Chain]:
        """See `workers.folding`."""
        ends = [(self.stem, self.stem_norm), (None, self.last_norm)]
        return [Chain(conv, norm, self.active) for conv, norm in ends if norm is not None]

    def _initialise_unnormalised(self, blocks: Sequence[PreActBlock | PostActBlock]) -> None:
        """Each block starts as its shortcut; without that the second moment would double in each (Zhang et al. 2019).

        Of their rules: the last convolution of a block is zero, the first is scaled by (number of blocks)^(-1/2). Their
        scalar factors and biases are not there; the convolutions have biases.
        """
        he_initialise(self)
        with torch.no_grad():
            for block in blocks:
                block.conv1.weight.mul_(len(blocks) ** -0.5)
                block.conv2.weight.zero_()


def small_preact_resnet(spec: SmallPreActResNet, shape: Shape, classes: int) -> ResNet:
    """Three stages of `spec.blocks` pre-activation blocks."""
    w = spec.width
    return ResNet(PreActBlock, w, (w, 2 * w, 4 * w), spec.blocks, shape[0], classes, spec.norm)


def preact_resnet18(spec: PreActResNet18, shape: Shape, classes: int) -> ResNet:
    """2-2-2-2 pre-activation blocks."""
    w = spec.width
    return ResNet(PreActBlock, w, (w, 2 * w, 4 * w, 8 * w), 2, shape[0], classes, spec.norm)


def resnet18(spec: ResNet18, shape: Shape, classes: int) -> ResNet:
    """2-2-2-2 post-activation blocks."""
    w = spec.width
    return ResNet(PostActBlock, w, (w, 2 * w, 4 * w, 8 * w), 2, shape[0], classes, spec.norm)


def wide_resnet(spec: WideResNet, shape: Shape, classes: int) -> ResNet:
    """Three stages of (depth - 4) / 6 pre-activation blocks, 16, 32, 64 channels times `spec.widen`."""
    w = 16 * spec.widen
    return ResNet(PreActBlock, 16, (w, 2 * w, 4 * w), (spec.depth - 4) // 6, shape[0], classes, spec.norm)
