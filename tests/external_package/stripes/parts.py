"""The implementations, which only workers import."""

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.spec.training import Attack
from stripes import spec
from workers.data.arrays import Arrays
from workers.data.splits import Splits
from workers.labels import Labels
from workers.methods.base import Loss
from workers.models.classifier import Classifier
from workers.steps import Steps, Tick, stepwise


def load(spec: spec.Stripes) -> Arrays:
    """Image i has class i % 2 and its own brightness."""
    number, row, column = np.meshgrid(np.arange(spec.count), np.arange(8), np.arange(8), indexing="ij")
    bright = np.where(number % 2 == 0, row, column) % 2 == 0
    pixels = np.where(bright, 120 + number % 100, 20).astype(np.uint8)
    labels = np.arange(spec.count) % 2
    return Arrays(pixels[..., None], labels, 255 - pixels[..., None], labels, classes=2)


def pooled_linear(spec: spec.PooledLinear, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """From standardised images to logits."""
    linear = nn.Linear(shape[0] * spec.cells**2, classes)
    return nn.Sequential(nn.AdaptiveAvgPool2d(spec.cells), nn.Flatten(), linear)


class NoiseMix:
    """See its spec."""

    def __init__(self, spec: spec.NoiseMix) -> None:
        self.share = spec.share

    def attack(self, _model: Classifier, x: Tensor, _labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """A random sign of eps on each pixel."""
        sign = torch.randint(2, x.shape, generator=random, device=x.device) * 2 - 1
        return (x + attack.eps * sign).clamp(0, 1)

    def loss(self, model: Classifier, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The mixture; judged by the noisy images."""
        noisy = model(x_adv)
        mixed = (1 - self.share) * labels.cross_entropy(model(x)) + self.share * labels.cross_entropy(noisy)
        return Loss(mixed, noisy)


class RowNorm:
    """See its spec."""

    def __init__(self, spec: spec.RowNorm) -> None:
        self.bound = spec.bound

    @torch.no_grad()
    def after_step(self, model: Classifier, _progress: float) -> None:
        """Shortens the rows that are too long."""
        weight = model.last_linear.weight
        weight.mul_((self.bound / weight.norm(dim=1, keepdim=True)).clamp(max=1))


@stepwise
def weight_norm(
    model: nn.Module, splits: Splits, settings: spec.WeightNorm, *, attack: Attack, seed: int, **_more: object
) -> Steps[dict[str, float]]:
    """One value in one step."""
    yield Tick(1, 1)
    return {"weight_norm": float(torch.cat([p.detach().double().flatten() for p in model.parameters()]).norm())}
