"""Adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

import torch
from torch import Tensor, nn

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import cross_entropy_objective, pgd
from workers.labels import Labels
from workers.methods.base import Loss


class AdversarialTraining:
    """CE(f(x_adv), y) with x_adv by PGD on the cross-entropy of the labels' class indices."""

    def __init__(self, _spec: spec.AdversarialTraining) -> None:
        pass

    def attack(self, model: nn.Module, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD on cross-entropy. Softened labels are attacked by their index [ours]."""
        return pgd(model, x, cross_entropy_objective(labels.index), attack, random)

    def loss(self, model: nn.Module, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on the adversarial images."""
        logits = model(x_adv)
        return Loss(labels.cross_entropy(logits), logits)
