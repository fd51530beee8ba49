"""The places of a training step where a regulariser may act. Each is an interface of its own.

A regulariser may also implement `WeightPerturbation`, `NetworkPolicy` and `Stateful` of `workers.methods.base`.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from orchestrator.spec.training import Optimizer
from workers.data.splits import Images
from workers.labels import Labels
from workers.models.classifier import Classifier


@runtime_checkable
class OptimizerPolicy(Protocol):
    """Changes the optimizer's settings before training starts."""

    def optimizer(self, settings: Optimizer) -> Optimizer:
        """The settings to use instead."""


@runtime_checkable
class BatchTransform(Protocol):
    """Changes images and labels before they are attacked."""

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """Images, B x C x H x W in [0, 1], and labels to train on; `random` belongs to this regulariser and batch."""


@runtime_checkable
class Penalty(Protocol):
    """Adds a term to the loss."""

    def penalty(self, model: Classifier, x: Tensor, x_adv: Tensor, labels: Labels) -> Tensor:
        """The term, a scalar with its graph; x are the images before the attack."""


@runtime_checkable
class StepPolicy(Protocol):
    """Moves the weights along their gradients in its own way; at most one in a trial.

    One that leaves the network at other weights than those it trains for is also `FinalWeights`.
    """

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Called in place of `optimizer.step()`, gradients set.

        Returns:
            Whether the optimizer has stepped, which is when `AfterStep` regularisers act.
        """


@runtime_checkable
class AfterStep(Protocol):
    """Acts on the weights after each optimizer step."""

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Changes the model in place, without gradients; `progress` is the share of training done, in (0, 1]."""


@runtime_checkable
class AfterEpoch(Protocol):
    """Looks at the weights after each epoch."""

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """`progress` is the share of training done, in (0, 1]."""


@runtime_checkable
class FinalWeights(Protocol):
    """Puts other weights than the last ones into the network that is evaluated."""

    def finish(self, model: Classifier, images: Images, batch_size: int) -> None:
        """Changes the model in place after the last epoch; `images` are the training images."""
