"""Penalty on the gradient of the loss with respect to the input (Ross & Doshi-Velez 2018, arXiv 1711.09404)."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec import regularizers as spec
from workers.labels import Labels
from workers.models.classifier import Classifier
from workers.modes import untracked_statistics


class InputGradient:
    """weight * mean over the batch of ||grad_x CE(f(x), y)||_2^2 at the clean images."""

    def __init__(self, spec: spec.InputGradient) -> None:
        self.weight = spec.weight

    def penalty(self, model: Classifier, x: Tensor, _x_adv: Tensor, labels: Labels) -> Tensor:
        """The extra forward uses the batch's statistics and leaves the running ones untouched."""
        x = x.detach().requires_grad_(True)
        with untracked_statistics(model):
            loss = F.cross_entropy(model(x), labels.index, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return self.weight * gradient.flatten(1).square().sum(1).mean()
