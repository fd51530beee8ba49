"""Sharpness-aware minimisation (Foret et al. 2021) and its adaptive form (Kwon et al. 2021)."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from orchestrator.spec import regularizers as spec
from workers.models.classifier import Classifier
from workers.modes import untracked_statistics
from workers.weights import displaced


class Sam:
    """The gradient is taken at w + rho * g / ||g||, over all weights together."""

    def __init__(self, spec: spec.Sam) -> None:
        self.rho = spec.rho

    @contextlib.contextmanager
    def applied(self, model: Classifier, loss: Callable[[], Tensor], epoch: int) -> Iterator[None]:  # noqa: ARG002
        """The weights are perturbed inside."""
        parameters = list(model.parameters())
        gradients = _gradients(model, loss)
        scale = self.rho / _norm(gradients)
        with displaced(parameters, [scale * gradient for gradient in gradients]):
            yield


class Asam:
    """The gradient is taken at w + rho * T^2 g / ||T g|| with T = |w| + eta, element by element."""

    def __init__(self, spec: spec.Asam) -> None:
        self.rho, self.eta = spec.rho, spec.eta

    @contextlib.contextmanager
    def applied(self, model: Classifier, loss: Callable[[], Tensor], epoch: int) -> Iterator[None]:  # noqa: ARG002
        """The weights are perturbed inside."""
        parameters = list(model.parameters())
        sizes = [parameter.detach().abs() + self.eta for parameter in parameters]
        scaled = [size * gradient for size, gradient in zip(sizes, _gradients(model, loss), strict=True)]
        scale = self.rho / _norm(scaled)
        with displaced(parameters, [scale * size * item for size, item in zip(sizes, scaled, strict=True)]):
            yield


def _gradients(model: Classifier, loss: Callable[[], Tensor]) -> list[Tensor]:
    """Of every parameter, with the batch's statistics and the running ones left alone."""
    with untracked_statistics(model):
        return list(torch.autograd.grad(loss(), list(model.parameters())))


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm.clamp_min(1e-12)
