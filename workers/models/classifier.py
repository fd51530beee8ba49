"""From a model's spec to a network on the device that takes pixels in [0, 1]."""

import torch
from torch import Tensor, nn

from orchestrator.spec.models import Model
from workers.data.splits import Splits
from workers.failures import DataError
from workers.seeding import seed_of


class Classifier(nn.Module):
    """Standardises its input by the training images' mean and deviation per channel, then applies the network.

    Args:
        network: takes standardised images, B x C x H x W; returns logits, B x classes.
        mean: per channel, of pixels in [0, 1].
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.heads = nn.ModuleDict()
        """Further heads on the penultimate features, for training only."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images with pixels in [0, 1], in the images' own precision, also where the network's is lower."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits.to(x.dtype)

    @property
    def last_linear(self) -> nn.Linear:
        """The layer that makes the logits: its input is the penultimate features."""
        return [module for module in self.network.modules() if isinstance(module, nn.Linear)][-1]

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits B x classes, and the penultimate features B x F behind them."""
        caught: list[Tensor] = []
        hook = self.last_linear.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
        try:
            return Classifier.forward(self, x), caught[0]  # compiled, it would pass the hook by
        finally:
            hook.remove()


def build_classifier(spec: Model, splits: Splits, seed: int, device: torch.device) -> Classifier:
    """The network with weights drawn from `seed`; the same on every device.

    Raises:
        DataError: the network cannot take images of this size.
    """
    if problem := spec.misfit(*splits.shape[1:]):
        raise DataError(problem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "initial weights"))
        network: nn.Module = spec.load()(spec, splits.shape, splits.classes)
    mean, std = channel_statistics(splits.train.x)
    return Classifier(network, mean, std).to(memory_format=torch.channels_last).to(device)


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of uint8 images N x C x H x W, in units of [0, 1], from exact counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in x.cpu().unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = share @ levels**2 - mean**2
    return mean.float(), variance.clamp_min(1e-12).sqrt().float()
