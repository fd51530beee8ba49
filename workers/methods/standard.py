"""Training on clean images."""

import torch
from torch import Tensor, nn

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.base import Loss


class Standard:
    """CE(f(x), y)."""

    def __init__(self, _spec: spec.Standard) -> None:
        pass

    def attack(self, model: nn.Module, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:  # noqa: ARG002
        """No attack: x itself."""
        return x

    def loss(self, model: nn.Module, x: Tensor, _x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on the clean images."""
        logits = model(x)
        return Loss(labels.cross_entropy(logits), logits)
