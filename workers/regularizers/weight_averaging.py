"""Averages of the weights over training, evaluated in their place (Stutz21; Izmailov et al. 2018, arXiv 1803.05407)."""

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.spec import regularizers as spec
from workers.data.batches import to_unit
from workers.data.splits import Images
from workers.models.classifier import Classifier


class WeightAveraging:
    """Exponential average after each step, or plain average after each epoch; batch statistics are estimated afresh."""

    def __init__(self, spec: spec.WeightAveraging) -> None:
        self.kind, self.decay, self.start = spec.kind, spec.decay, spec.start
        self.average: list[Tensor] = []
        self.count = 0

    def after_step(self, model: nn.Module, progress: float) -> None:
        """avg = decay * avg + (1 - decay) * w."""
        if self.kind == "ema" and progress > self.start:
            self._add(model, 1 - self.decay)

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """avg = (n * avg + w) / (n + 1)."""
        if self.kind == "swa" and progress > self.start:
            self._add(model, 1 / (self.count + 1))

    def finish(self, model: Classifier, images: Images, batch_size: int) -> None:
        """Puts the average in place, and the mean over clean training batches [ours] as running statistics."""
        if not self.count:
            return
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), self.average, strict=True):
                parameter.copy_(average)
        estimate_statistics(model, images, batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.average, self.count = list(state["average"]), int(state["count"])

    def _add(self, model: nn.Module, share: float) -> None:
        with torch.no_grad():
            weights = [parameter.detach() for parameter in model.parameters()]
            if not self.count:
                self.average = [weight.clone() for weight in weights]
            else:
                torch._foreach_lerp_(self.average, weights, share)
        self.count += 1


def estimate_statistics(model: nn.Module, images: Images, batch_size: int) -> None:
    """Running statistics of every batch normalisation become the plain mean over the batches of `images`.

    Everything else is in eval mode: the statistics are those of the network that is measured, without dropout.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    was_training = [module.training for module in model.modules()]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a plain mean over batches
    with torch.no_grad():
        for low in range(0, len(images), batch_size):
            model(to_unit(images.x[low : low + batch_size]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in zip(model.modules(), was_training, strict=True):
        module.training = mode
