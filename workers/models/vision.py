"""The networks of torchvision, with new weights and with the data's channels and classes."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision import models

from orchestrator.spec.architectures import PATCHES
from orchestrator.spec.models import Torchvision
from workers.models.layers import Shape


class PlainAttention(nn.Module):
    """A network whose attention is computed step by step: torch's fused attention has no second derivative."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives."""
        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = self.network(x)
        return logits


class HardSigmoid(nn.Module):
    """min(max(x + 3, 0), 6) / 6, of pieces that have second derivatives: torch's own has none."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.relu6(x + 3) / 6


def network(spec: Torchvision, shape: Shape, classes: int) -> nn.Module:
    """The architecture with torchvision's own initial weights; nothing is downloaded.

    Auxiliary heads are off, so that training mode gives plain logits too. No layer works in place, so that a hook keeps
    what it saw, and everything can be differentiated twice, for input-gradient penalties and Hessians. For other than
    3 channels the first convolution is made anew, with torch's initial weights.
    """
    settings: dict[str, Any] = {}
    if spec.architecture in {"googlenet", "inception_v3"}:
        settings = {"aux_logits": False, "init_weights": True}
    if spec.architecture in PATCHES:
        settings = {"image_size": shape[1]}
    found: nn.Module = models.get_model(spec.architecture, weights=None, num_classes=classes, **settings)
    if shape[0] != 3:
        _take_channels(found, shape[0])
    for module in list(found.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, HardSigmoid())
            elif hasattr(child, "inplace"):
                child.inplace = False  # type: ignore[assignment]
    return PlainAttention(found) if spec.architecture in PATCHES else found


def _take_channels(network: nn.Module, channels: int) -> None:
    """Makes the weights of the first convolution anew, for images of `channels` channels."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = channels
    first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
    first.reset_parameters()
