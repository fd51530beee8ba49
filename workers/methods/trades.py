"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import pgd
from workers.folding import folded
from workers.labels import Labels
from workers.methods.base import Loss

START_DEVIATION = 0.001
"""Standard deviation of the Gaussian start around x, in units of the pixel range (the authors' code)."""


class Trades:
    """CE(f(x), y) + beta * KL(p(x) || p(x_adv))."""

    def __init__(self, spec: spec.Trades) -> None:
        self.beta = spec.beta

    def attack(self, model: nn.Module, x: Tensor, _labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """PGD that maximises KL(p(x) || p(x_adv)) from x + 0.001 N(0, 1), whatever `random_start` says.

        At x itself the divergence has no gradient, so a start at the image would not move.
        """
        with folded(model, precision=attack.precision):
            with torch.no_grad():
                clean = model(x)
            return pgd(model, x, lambda logits: kl(clean, logits), attack, random, start=_gaussian_start)

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Clean and adversarial images go through the network one after the other, as in the authors' code."""
        clean, adversarial = model(x), model(x_adv)
        return Loss(labels.cross_entropy(clean) + self.beta * kl(clean, adversarial).mean(), adversarial)


def kl(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p || q) per example in nats, B, of the softmax p of `clean` and q of `adversarial`, logits B x C."""
    log_p, log_q = F.log_softmax(clean, dim=1), F.log_softmax(adversarial, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _gaussian_start(x: Tensor, _attack: Attack, random: torch.Generator) -> Tensor:
    return (x + START_DEVIATION * torch.empty_like(x).normal_(generator=random)).clamp_(0, 1)
