"""Two ways to treat images that are misclassified before any attack (Stutz21)."""

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import cross_entropy_objective, pgd
from workers.labels import Labels
from workers.methods.adversarial import attack_cross_entropy, loss_at_adversarial
from workers.methods.base import Loss
from workers.models.classifier import Classifier
from workers.modes import frozen


def predicted(model: Classifier, x: Tensor) -> Tensor:
    """Predicted classes in eval mode, int64, B."""
    with frozen(model), torch.no_grad():
        classes: Tensor = model(x).argmax(1)
    return classes


class IgnoreIncorrect:
    """An image that is misclassified as it is is trained on as it is."""

    def __init__(self, _spec: spec.IgnoreIncorrect) -> None:
        pass

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD on cross-entropy where the clean image is classified correctly, the clean image elsewhere."""
        correct = predicted(model, x) == labels.index
        x_adv = attack_cross_entropy(model, x, labels, attack, random)
        return torch.where(correct[:, None, None, None], x_adv, x)

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on these images."""
        return loss_at_adversarial(model, x_adv, labels)


class PreventLabelLeaking:
    """The attack moves away from the predicted label, so that it cannot give the true one away."""

    def __init__(self, _spec: spec.PreventLabelLeaking) -> None:
        pass

    def attack(self, model: Classifier, x: Tensor, _labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD on cross-entropy with the predicted label."""
        return pgd(model, x, cross_entropy_objective(predicted(model, x)), attack, random)

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy with the true labels."""
        return loss_at_adversarial(model, x_adv, labels)
