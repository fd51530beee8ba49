"""Free adversarial training (Shafahi et al. 2019, arXiv 1904.12843)."""

from typing import Any

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.attacks import moved_offset
from workers.labels import Labels
from workers.methods.adversarial import loss_at_adversarial
from workers.methods.base import Loss
from workers.models.classifier import Classifier


class Free:
    """CE(f(x + delta), y), m steps on each batch; delta <- clip(delta + eps * sign(g)) after each one's backward.

    g is the gradient at the images as they are trained on, clipped to [0, 1]: the authors' code differentiates through
    that clipping, so there a pixel that is clipped keeps its delta [ours: it moves]. For l2 the step has the length eps
    along g, and delta is projected to the ball. delta is zero at first and kept from batch to batch, image i of a batch
    going on from image i of the one before; a smaller last batch uses and changes the first rows, as in their code.
    """

    def __init__(self, spec: spec.Free) -> None:
        self.replays = spec.replays
        self.delta: Tensor | None = None

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:  # noqa: ARG002
        """The images moved by delta, which the steps before this one have made."""
        if self.delta is None:
            self.delta = torch.zeros_like(x)
        return (x + self.delta[: len(x)]).clamp_(0, 1)

    def loss(self, model: Classifier, _x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """Cross-entropy on these images."""
        return loss_at_adversarial(model, x_adv, labels)

    def after_backward(self, gradient: Tensor, attack: Attack) -> None:
        """One step of delta."""
        assert self.delta is not None  # noqa: S101  (the attack came first)
        moved = moved_offset(self.delta[: len(gradient)], gradient, attack.eps, attack)
        self.delta = torch.cat([moved, self.delta[len(gradient) :]])

    def state_dict(self) -> dict[str, Any]:
        """delta, None before the first batch."""
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.delta = state["delta"]
