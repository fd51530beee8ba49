"""Adversarial weight perturbation over another method (Wu20, arXiv 2004.05884, algorithm 1)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.base import Loss, Method
from workers.modes import untracked_statistics
from workers.weights import matrices, restored, scaled_to


class AdversarialWeightPerturbation:
    """Attack and loss of the method underneath; the gradient is taken at w + v.

    v_l = gamma * ||w_l||_F * g_l / ||g_l||_F with g the gradient of the same loss at the same x_adv, for every tensor
    with more than one dimension. The extra forward uses the batch's statistics and leaves the running ones untouched.
    Before the optimizer steps, the weights are restored exactly; the authors' code subtracts v after the step, which
    differs by the weight decay of v and by rounding.
    """

    def __init__(self, spec: spec.AdversarialWeightPerturbation) -> None:
        self.under: Method = spec.over.load()(spec.over)
        self.gamma, self.warmup = spec.gamma, spec.warmup

    def attack(self, model: nn.Module, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """The attack of the method underneath."""
        return self.under.attack(model, x, labels, attack, random)

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The loss of the method underneath."""
        return self.under.loss(model, x, x_adv, labels)

    @contextlib.contextmanager
    def applied(self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels, epoch: int) -> Iterator[None]:
        """The weights are w + v inside, from epoch `warmup` on."""
        if epoch < self.warmup:
            yield
            return
        parameters = matrices(model)
        with untracked_statistics(model):
            gradients = torch.autograd.grad(self.loss(model, x, x_adv, labels).value, parameters)
        with restored(parameters) as originals:
            lengths = [self.gamma * norm for norm in torch._foreach_norm(originals)]
            with torch.no_grad():
                for parameter, v in zip(parameters, scaled_to(gradients, lengths), strict=True):
                    parameter.add_(v)
            yield
