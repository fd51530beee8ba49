"""Fast single-step adversarial training (Wong, Rice, Kolter 2020, arXiv 2001.03994)."""

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.adversarial import attack_cross_entropy, loss_at_adversarial
from workers.methods.base import Loss
from workers.models.classifier import Classifier


class FgsmRandomStart:
    """CE at one long step from a random start. Its catastrophic overfitting shows as a robust loss that jumps."""

    def __init__(self, spec: spec.FgsmRandomStart) -> None:
        self.factor = spec.step_factor

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """One step of `step_factor` * eps in the training attack's ball, whatever steps and restarts it names."""
        single = {"steps": 1, "restarts": 1, "step_size": self.factor * attack.eps, "random_start": True}
        fast = attack.model_copy(update=single | {"best_iterate": False})
        return attack_cross_entropy(model, x, labels, fast, random)

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on the adversarial images."""
        return loss_at_adversarial(model, x_adv, labels)
