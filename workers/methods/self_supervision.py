"""Adversarial training with a rotation head (Hendrycks et al. 2019, arXiv 1906.12340; Stutz21)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec import methods as spec
from workers.failures import DataError
from workers.labels import Labels
from workers.methods.adversarial import attack_cross_entropy
from workers.methods.base import Loss
from workers.models.classifier import Classifier

HEAD = "rotation"


class SelfSupervision:
    """CE(f(x_adv), y) + lambda * CE(h(rot_k(x_adv)), k), k in {0, 90, 180, 270} degrees, one per image.

    h shares everything with f but the last layer. Rotated are the adversarial examples [ours].
    """

    attack = staticmethod(attack_cross_entropy)

    def __init__(self, spec: spec.SelfSupervision) -> None:
        self.weight = spec.weight

    def extend(self, model: Classifier) -> None:
        """Adds the rotation head."""
        model.heads[HEAD] = nn.Linear(model.last_linear.in_features, 4)

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The images and the rotated images go through the network one after the other."""
        if x_adv.shape[-1] != x_adv.shape[-2]:
            raise DataError(f"images of {x_adv.shape[-2]} x {x_adv.shape[-1]} pixels cannot be rotated by 90 degrees")
        logits = model(x_adv)
        turns = torch.randint(4, (len(x_adv),), device=x_adv.device)
        _, features = model.logits_and_features(rotated(x_adv, turns))
        rotation = F.cross_entropy(model.heads[HEAD](features), turns)
        return Loss(labels.cross_entropy(logits) + self.weight * rotation, logits)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Image i of B x C x N x N turned by turns[i] quarter turns, counter-clockwise."""
    result = x
    for turn in range(1, 4):
        result = torch.where((turns == turn)[:, None, None, None], torch.rot90(x, turn, (2, 3)), result)
    return result
