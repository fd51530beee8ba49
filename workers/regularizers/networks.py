"""Regularisers that change the network itself, before training."""

from torch import nn

from orchestrator.spec import regularizers as spec
from workers.models.classifier import Classifier

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
}


class Activation:
    """Every nn.ReLU module is replaced."""

    def __init__(self, spec: spec.Activation) -> None:
        self.kind = spec.kind

    def extend(self, model: Classifier) -> None:
        """Replaces in place.

        Raises:
            ValueError: the network has no ReLU.
        """
        found = [
            (parent, name)
            for parent in model.modules()
            for name, child in parent._modules.items()  # named_children lists a module that is used twice once
            if type(child) is nn.ReLU
        ]
        if not found:
            raise ValueError("this network has no ReLU whose place another activation could take")
        for parent, name in found:
            setattr(parent, name, ACTIVATIONS[self.kind]())


class Dropout:
    """The layer that makes the logits sees its input through dropout."""

    def __init__(self, spec: spec.Dropout) -> None:
        self.rate = spec.rate

    def extend(self, model: Classifier) -> None:
        """Puts a dropout layer before the last linear one."""
        linear = model.last_linear
        for parent in model.modules():
            for name, child in parent.named_children():
                if child is linear:
                    setattr(parent, name, nn.Sequential(nn.Dropout(self.rate), linear))
                    return
