"""Another method at randomly perturbed weights (Stutz21)."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from workers.methods.wrapped import Wrapped
from workers.models.classifier import Classifier
from workers.weights import displaced, perturbed_tensors, scaled_to


class RandomWeightPerturbation(Wrapped):
    """The gradient is taken at w + nu, nu_l uniform on the sphere of radius xi * ||w_l|| in the tensors of flatness.

    The examples are attacked at w [ours], so that it goes over any method.
    """

    def __init__(self, spec: spec.RandomWeightPerturbation) -> None:
        super().__init__(spec.over)
        self.xi = spec.xi

    @contextlib.contextmanager
    def applied(self, model: Classifier, loss: Callable[[], Tensor], epoch: int) -> Iterator[None]:  # noqa: ARG002
        """The weights are w + nu inside."""
        parameters = perturbed_tensors(model)
        lengths = [self.xi * norm for norm in torch._foreach_norm([p.detach() for p in parameters])]
        with displaced(parameters, scaled_to([torch.randn_like(p) for p in parameters], lengths)):
            yield
