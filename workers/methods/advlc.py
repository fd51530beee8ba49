"""AdvLC: adversarial logit consistency (Li & Spratling 2022, arXiv 2212.04985)."""

from torch import Tensor

from orchestrator.spec import methods as spec
from workers.labels import Labels
from workers.methods.adversarial import attack_cross_entropy
from workers.methods.base import Loss
from workers.models.classifier import Classifier


class AdvLogitConsistency:
    """CE(f(x_adv), y) + lambda * R, R = (1/B) * sum of the k largest |z(x) - z(x_adv)|, k = int(top * B * C)."""

    attack = staticmethod(attack_cross_entropy)

    def __init__(self, spec: spec.AdvLogitConsistency) -> None:
        self.weight, self.top, self.linear_warmup = spec.weight, spec.top, spec.linear_warmup
        self.factor = 1.0

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The warm-up: lambda * (epoch + 1) / epochs."""
        self.factor = (epoch + 1) / epochs if self.linear_warmup else 1.0

    def loss(self, model: Classifier, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Gradients flow through both logits."""
        clean, adversarial = model(x), model(x_adv)
        difference = (clean - adversarial).abs().flatten()
        count = max(1, int(self.top * difference.numel()))
        consistency = difference.topk(count).values.sum() / len(x)
        return Loss(labels.cross_entropy(adversarial) + self.weight * self.factor * consistency, adversarial)
