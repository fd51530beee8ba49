"""Convolutional networks without shortcuts: a plain CNN, and VGG (Simonyan & Zisserman 2015, arXiv 1409.1556)."""

import itertools
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from orchestrator.spec.models import Cnn, Norm, Vgg16
from workers.folding import Chain
from workers.models.layers import Shape, he_initialise, normalisation, normalised_conv, spatial_mean


class Plain(nn.Module):
    """Stages of (3x3 convolution - norm - ReLU) and 2x2 max pooling, average over what is left, linear layer.

    Args:
        stages: channels of each stage's convolutions.
        last_pool: whether the last stage is pooled too.
        channels: of the images.
        classes: number of logits.
        norm: kind of normalisation; without one the convolutions have He's initial weights.
    """

    def __init__(
        self, stages: Sequence[Sequence[int]], last_pool: bool, channels: int, classes: int, norm: Norm
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = channels
        for number, widths in enumerate(stages, start=1):
            for width in widths:
                layers += [normalised_conv(norm, inside, width, 3), normalisation(norm, width), nn.ReLU()]
                inside = width
            if last_pool or number < len(stages):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity)))
        self.linear = nn.Linear(inside, classes)
        if norm == "none":
            he_initialise(self.features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, B x classes, of images B x channels x H x W."""
        for layer in _pooling_first(self.features):
            x = layer(x)
        logits: Tensor = self.linear(spatial_mean(x))
        return logits

    def chains(self) -> list[Chain]:
        """See `workers.folding`."""
        layers = [layer for layer in self.features if not isinstance(layer, nn.MaxPool2d)]
        starts = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        found = []
        for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
            conv, *norms, act = layers[start:end]
            found.append(Chain(conv, norms[0] if norms else None, act))
        return found


def _pooling_first(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """A ReLU and max pooling change places: a ReLU is monotone, so that this is the same, with a quarter to look at."""
    order = list(layers)
    for place, (first, second) in enumerate(itertools.pairwise(order)):
        if type(first) is nn.ReLU and type(second) is nn.MaxPool2d:
            order[place : place + 2] = second, first
    return order


def cnn(spec: Cnn, shape: Shape, classes: int) -> Plain:
    """Three stages of `spec.depth` convolutions with w, 2w, 4w channels, pooled in between."""
    stages = [[factor * spec.width] * spec.depth for factor in (1, 2, 4)]
    return Plain(stages, False, shape[0], classes, spec.norm)


def vgg16(spec: Vgg16, shape: Shape, classes: int) -> Plain:
    """The 13 convolutions of configuration D, each stage pooled, and one linear layer."""
    w = spec.width
    stages = [[w] * 2, [2 * w] * 2, [4 * w] * 3, [8 * w] * 3, [8 * w] * 3]
    return Plain(stages, True, shape[0], classes, spec.norm)
