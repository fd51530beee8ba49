"""Regularisers that change the images, and the labels along with them, before they are attacked."""

import math

import torch
from torch import Tensor

from orchestrator.spec import regularizers as spec
from workers.labels import Labels


class Cutout:
    """A square of `size` x `size` pixels around a uniformly random pixel is painted with `fill`."""

    def __init__(self, spec: spec.Cutout) -> None:
        self.size, self.fill = spec.size, spec.fill

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """The labels stay."""
        count, _, height, width = x.shape
        rows, columns = (
            _covered(torch.randint(side, (count, 1), generator=random, device=x.device), side, self.size)
            for side in (height, width)
        )
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.fill), labels


def _covered(centre: Tensor, side: int, size: int) -> Tensor:
    """Which of `side` positions lie in the `size` ones around each centre, B x side."""
    position = torch.arange(side, device=centre.device)
    low = centre - size // 2
    return (position >= low) & (position < low + size)


class Mixup:
    """x_i and its label become weight * (x_i, y_i) + (1 - weight) * (x_j, y_j), j a random image of the batch."""

    def __init__(self, spec: spec.Mixup) -> None:
        self.alpha = spec.alpha

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """Attacks use the label of the larger share."""
        weight, order = _beta(self.alpha, random), _shuffled(len(x), random)
        return x * weight + x[order] * (1 - weight), labels.mixed(order, weight)


class Cutmix:
    """A random rectangle of image i comes from image j; labels mix by area."""

    def __init__(self, spec: spec.Cutmix) -> None:
        self.alpha = spec.alpha

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """One rectangle for the whole batch, of area 1 - lambda with its sides rounded down to even numbers of pixels.

        It is clipped at the border, as in the authors' code.
        """
        height, width = x.shape[2:]
        share = math.sqrt(1 - _beta(self.alpha, random))
        spans = []
        for side in (height, width):
            half = int(side * share / 2)
            centre = int(torch.randint(side, (), generator=random, device=random.device))
            spans.append(slice(max(0, centre - half), min(side, centre + half)))
        order = _shuffled(len(x), random)
        mixed = x.clone()
        mixed[:, :, spans[0], spans[1]] = x[order][:, :, spans[0], spans[1]]
        area = math.prod(span.stop - span.start for span in spans)
        return mixed, labels.mixed(order, 1 - area / (height * width))


def _shuffled(count: int, random: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=random, device=random.device)


def _beta(alpha: float, random: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as the ratio of two gamma variates."""
    a, b = torch._standard_gamma(
        torch.full((2,), alpha, dtype=torch.float64, device=random.device), generator=random
    ).tolist()
    return a / (a + b) if a + b > 0 else 0.5
