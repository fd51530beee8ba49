"""What methods that go over another one share: everything is the method underneath's unless they say otherwise."""

import torch
from torch import Tensor

from orchestrator.spec import methods as spec
from orchestrator.spec.training import Attack
from workers.labels import Labels
from workers.methods.base import Loss, Method, NetworkPolicy, Scheduled
from workers.models.classifier import Classifier


class Wrapped:
    """Delegates to the method of `over`."""

    def __init__(self, over: spec.Method) -> None:
        self.under: Method = over.load()(over)

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
