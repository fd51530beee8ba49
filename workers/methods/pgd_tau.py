"""Adversarial training with attacks that stop early (Stutz21's PGD-tau; Zhang et al. 2020, arXiv 2002.11242)."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import ascent_step, random_start
from workers.folding import folded
from workers.labels import Labels
from workers.methods.adversarial import loss_at_adversarial
from workers.methods.base import Loss
from workers.models.classifier import Classifier


class PgdTau:
    """CE at the last iterate of attacks that go on for tau steps after an example is first misclassified."""

    def __init__(self, spec: spec.PgdTau) -> None:
        self.tau = spec.tau

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD on cross-entropy; `restarts` and `best_iterate` do not apply."""
        step = ascent_step(x, attack)
        iterate = random_start(x, attack, random)
        left = torch.full((len(x),), self.tau, device=x.device)  # steps still allowed once misclassified
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with folded(model, precision=attack.precision):
            for _ in range(attack.steps):
                iterate = iterate.detach().requires_grad_(True)
                logits = model(iterate)
                (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels.index, reduction="sum"), iterate)
                fooled |= logits.argmax(1) != labels.index
                moves = ~fooled | (left > 0)
                left = left - fooled.long()
                iterate = torch.where(moves[:, None, None, None], step(iterate.detach(), gradient), iterate.detach())
        return iterate

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on the adversarial images."""
        return loss_at_adversarial(model, x_adv, labels)
