"""Adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

import math

import torch
from torch import Tensor, nn

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import cross_entropy_objective, pgd
from workers.labels import Labels
from workers.methods.base import Loss
from workers.models.classifier import Classifier


class AdversarialTraining:
    """CE(f(x_adv), y) with x_adv by PGD on the cross-entropy of the labels' class indices."""

    def __init__(self, spec: spec.AdversarialTraining) -> None:
        self.fraction = spec.adversarial_fraction

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD on cross-entropy, for the first `adversarial_fraction` of the batch (batches are shuffled).

        Softened labels are attacked by their index [ours].
        """
        count = math.ceil(round(self.fraction * len(x), 9))  # 0.07 * 100 is a little more than 7
        attacked = attack_cross_entropy(model, x[:count], Labels(labels.index[:count], labels.classes), attack, random)
        return attacked if count == len(x) else torch.cat([attacked, x[count:]])

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on the adversarial images, and on the clean ones of the rest."""
        return loss_at_adversarial(model, x_adv, labels)


def attack_cross_entropy(
    model: nn.Module, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator
) -> Tensor:
    """`Method.attack` of the methods whose attack is PGD on the cross-entropy of the class indices and nothing else."""
    return pgd(model, x, cross_entropy_objective(labels.index), attack, random)


def loss_at_adversarial(model: Classifier, x_adv: Tensor, labels: Labels) -> Loss:
    """CE(f(x_adv), y): what all variants of adversarial training minimise."""
    logits = model(x_adv)
    return Loss(labels.cross_entropy(logits), logits)
