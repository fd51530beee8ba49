"""Clipping of all weights after each step (Stutz21)."""

import torch
from torch import nn

from orchestrator.spec import regularizers as spec
from workers.weights import NORMALISATION


class WeightClipping:
    """Every parameter is clipped to [-c, c]; the scale of a normalisation layer to [1 - c, 1 + c] [ours].

    A scale clipped to [-c, c] would shrink every layer's output by c. Around 1 it is the deviation from plain
    normalisation that is kept small, as in networks that parametrise the scale as 1 + alpha.
    """

    def __init__(self, spec: spec.WeightClipping) -> None:
        self.bound = spec.bound

    def after_step(self, model: nn.Module, progress: float) -> None:  # noqa: ARG002
        """Clips in place."""
        with torch.no_grad():
            for module in model.modules():
                centre = 1.0 if isinstance(module, NORMALISATION) else 0.0
                for name, parameter in module.named_parameters(recurse=False):
                    middle = centre if name == "weight" else 0.0
                    parameter.clamp_(middle - self.bound, middle + self.bound)
