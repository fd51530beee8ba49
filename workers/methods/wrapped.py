"""What methods that go over another one share: everything is the method underneath's unless they say otherwise."""

from typing import Any

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.base import Loss, Method, NetworkPolicy, Replayed, Scheduled, Stateful
from workers.models.classifier import Classifier


class Wrapped:
    """Delegates to the method of `over`."""

    def __init__(self, over: spec.Method) -> None:
        self.under: Method = over.load()(over)
        if isinstance(
            self.under, Replayed
        ):  # only then, so that no other method's inputs are differentiated for nothing
            self.replays, self.after_backward = self.under.replays, self.under.after_backward

    def attack(self, model: Classifier, x: Tensor, labels: Labels, attack: Attack, random: torch.Generator) -> Tensor:
        """The attack of the method underneath."""
        return self.under.attack(model, x, labels, attack, random)

    def loss(self, model: Classifier, x: Tensor, x_adv: Tensor, labels: Labels) -> Loss:
        """The loss of the method underneath."""
        return self.under.loss(model, x, x_adv, labels)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The schedule of the method underneath, if it has one."""
        if isinstance(self.under, Scheduled):
            self.under.begin_epoch(epoch, epochs)

    def extend(self, model: Classifier) -> None:
        """The change of the network that the method underneath needs, if any."""
        if isinstance(self.under, NetworkPolicy):
            self.under.extend(model)

    def state_dict(self) -> dict[str, Any]:
        """The state of the method underneath, empty if it has none."""
        return self.under.state_dict() if isinstance(self.under, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        if isinstance(self.under, Stateful):
            self.under.load_state_dict(state)
