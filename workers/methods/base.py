"""The two small interfaces of a training method. A method's class implements `Method`; awp and the like add the second.

A training step is: inputs and labels through the regularisers - `Method.attack` - `Method.loss`, its gradient taken
inside `WeightPerturbation.applied` where there is one - optimizer - after-step hooks of the regularisers.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from orchestrator.spec.training import Attack
from workers.labels import Labels


class Loss(NamedTuple):
    """value: mean over the batch, in nats, with its graph. logits: B x C at the images that the method is judged by."""

    value: Tensor
    logits: Tensor


class Method(Protocol):
    """Built from its spec; holds no state of training."""

    def attack(self, model: nn.Module, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """Adversarial examples for x, B x C x H x W in [0, 1]; leaves the model as it was."""

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The loss that is minimised, with the model in training mode."""


@runtime_checkable
class WeightPerturbation(Protocol):
    """Moves the weights while the gradient of a step is taken."""

    def applied(
        self, model: nn.Module, x: Tensor, x_adv: Tensor, labels: Labels, epoch: int
    ) -> AbstractContextManager[None]:
        """Weights are perturbed inside, and exactly as before afterwards; running statistics are not touched."""


def perturbation_of(method: Method) -> WeightPerturbation | None:
    """The weight perturbation that a method brings along, if any."""
    return method if isinstance(method, WeightPerturbation) else None
