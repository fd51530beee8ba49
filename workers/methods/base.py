"""The small interfaces of a training method. A class implements `Method`, and of the others what it needs.

A training step is: inputs and labels through the regularisers - `Method.attack` - `Method.loss` and penalties, their
gradient taken at perhaps perturbed weights - optimizer - after-step hooks of the regularisers. Whatever a method draws
in `loss` comes from torch's global generator, which the step seeds from (seed, epoch, batch).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.models.classifier import Classifier


class Loss(NamedTuple):
    """value: mean over the batch, in nats, with its graph. logits: B x C at the images that the method is judged by."""

    value: Tensor
    logits: Tensor


class Method(Protocol):
    """Built from its spec; holds no state of training unless it is `Stateful`."""

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """Adversarial examples for x, B x C x H x W in [0, 1]; leaves the model as it was."""

    def loss(self, model: Classifier, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The loss that is minimised, with the model in training mode."""


@runtime_checkable
class WeightPerturbation(Protocol):
    """Moves the weights while the gradient of a step is taken."""

    def applied(self, model: Classifier, loss: Callable[[], Tensor], epoch: int) -> AbstractContextManager[None]:
        """Weights are perturbed inside, and exactly as before afterwards; running statistics are not touched.

        Args:
            model: in training mode.
            loss: computes the step's whole loss, with its graph, at the weights as they are.
            epoch: from 0.
        """


@runtime_checkable
class Replayed(Protocol):
    """Takes several steps on each batch in a row, and learns from each one's gradient for the next attack.

    A replay is a step like any other: attack, loss, optimizer, after-step hooks. Images, augmentation and what the
    regularisers do to them are the same in every replay of a batch; what the loss draws at random is not.
    """

    replays: int
    """Steps on each batch, at least 1."""

    def after_backward(self, gradient: Tensor, attack: Attack) -> None:
        """Sees the gradient of a step's loss with respect to the attacked images, like x, before the weights move."""


@runtime_checkable
class Scheduled(Protocol):
    """Changes its settings over training."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before the first step of `epoch` (from 0), and again when a trial goes on in it."""


@runtime_checkable
class NetworkPolicy(Protocol):
    """Changes the network before training starts."""

    def extend(self, model: Classifier) -> None:
        """Changes the model in place; new weights come from torch's global generator, which is seeded for it."""


@runtime_checkable
class Stateful(Protocol):
    """Carries something from step to step that a checkpoint must hold."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
