"""Adversarial weight perturbation over another method (Wu20, arXiv 2004.05884, algorithm 1)."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from workers.methods.wrapped import Wrapped
from workers.models.classifier import Classifier
from workers.modes import untracked_statistics
from workers.weights import displaced, matrices, scaled_to


class AdversarialWeightPerturbation(Wrapped):
    """Attack and loss of the method underneath; the gradient is taken at w + v.

    v_l = gamma * ||w_l||_F * g_l / ||g_l||_F with g the gradient of the same loss at the same x_adv, for every tensor
    with more than one dimension. The extra forward uses the batch's statistics and leaves the running ones untouched.
    Before the optimizer steps, the weights are restored exactly; the authors' code subtracts v after the step, which
    differs by the weight decay of v and by rounding. A loss that draws at random (dropout, rotations) draws afresh.
    """

    def __init__(self, spec: spec.AdversarialWeightPerturbation) -> None:
        super().__init__(spec.over)
        self.gamma, self.warmup, self.ramp = spec.gamma, spec.warmup, spec.ramp

    def radius(self, epoch: int) -> float:
        """Of the perturbation in `epoch` (from 0), relative to each tensor's norm: 0, then growing, then gamma."""
        grown = max(0, epoch - self.warmup + 1)
        return self.gamma * min(1.0, grown / (self.ramp + 1))

    @contextlib.contextmanager
    def applied(self, model: Classifier, loss: Callable[[], Tensor], epoch: int) -> Iterator[None]:
        """The weights are w + v inside, from epoch `warmup` on."""
        if not (radius := self.radius(epoch)):
            yield
            return
        parameters = matrices(model)
        with untracked_statistics(model):
            gradients = torch.autograd.grad(loss(), parameters)
        lengths = [radius * norm for norm in torch._foreach_norm([p.detach() for p in parameters])]
        with displaced(parameters, scaled_to(gradients, lengths)):
            yield
