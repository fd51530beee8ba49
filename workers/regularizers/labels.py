"""Regularisers that act on the labels alone (Stutz21)."""

import torch
from torch import Tensor

from orchestrator.spec import regularizers as spec
from workers.labels import Labels


class LabelNoise:
    """With probability `rate` a label uniform over all C classes, the true one among them, afresh for each batch."""

    def __init__(self, spec: spec.LabelNoise) -> None:
        self.rate = spec.rate

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """The attack and the loss both see the noisy labels."""
        y = labels.index
        redrawn = torch.rand(y.shape, generator=random, device=y.device) < self.rate
        uniform = torch.randint(labels.classes, y.shape, generator=random, device=y.device)
        return x, labels.relabelled(torch.where(redrawn, uniform, y))


class LabelSmoothing:
    """Targets (1 - t) * onehot + t / C."""

    def __init__(self, spec: spec.LabelSmoothing) -> None:
        self.amount = spec.amount

    def transform(self, x: Tensor, labels: Labels, _random: torch.Generator) -> tuple[Tensor, Labels]:
        """The class index stays for the attack."""
        return x, labels.softened(self.amount)
