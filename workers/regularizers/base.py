"""The places of a training step where a regulariser may act. Each is an interface of its own."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from orchestrator.spec.training import Optimizer
from workers.labels import Labels


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
class AfterStep(Protocol):
    """Acts on the weights after each optimizer step."""

    def after_step(self, model: nn.Module) -> None:
        """Changes the model in place, without gradients."""
