"""Entropy-SGD (Chaudhari et al. 2017, arXiv 1611.01838) as in the authors' code, github.com/ucla-vision/entropy-sgd."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.spec import regularizers as spec
from workers.data.splits import Images
from workers.models.classifier import Classifier


class EntropySgd:
    """L Langevin steps w' from the weights w, then one step of the optimizer with the gradient w - mu.

    w' <- w' - eta' * (momentum(g + decay * w') + gamma * (w' - w)) + noise * sqrt(2 * eta') * N(0, 1);
    mu <- alpha * mu + (1 - alpha) * w'. g is the gradient of the batch at w', where its attack, running statistics and
    clipping of the gradient are too; decay is the optimizer's own, which it applies once more to its step. The authors'
    code spends one more batch per step of the optimizer, on a loss to print.
    """

    def __init__(self, spec: spec.EntropySgd) -> None:
        self.spec = spec
        self.taken = 0
        self.origin: list[Tensor] = []
        self.mean: list[Tensor] = []
        self.velocity: list[Tensor] = []

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """One step of the walk; at its end one of the optimizer from where the walk began."""
        weights = list(model.parameters())
        if self.taken == 0:
            self._begin(weights)
        self._walk(weights, optimizer)
        self.taken += 1
        if self.taken < self.spec.steps:
            return False
        with torch.no_grad():
            for weight, origin, mean in zip(weights, self.origin, self.mean, strict=True):
                weight.copy_(origin)
                if weight.grad is not None:
                    weight.grad = origin - mean
        optimizer.step()
        self.taken, self.origin, self.mean, self.velocity = 0, [], [], []
        return True

    def finish(self, model: Classifier, images: Images, batch_size: int) -> None:  # noqa: ARG002
        """In the middle of a walk: the weights that it began at. Running statistics stay those of the walk [ours]."""
        if self.taken:
            with torch.no_grad():
                for weight, origin in zip(model.parameters(), self.origin, strict=True):
                    weight.copy_(origin)

    def state_dict(self) -> dict[str, Any]:
        """The walk so far."""
        return {"taken": self.taken, "origin": self.origin, "mean": self.mean, "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self.taken = int(state["taken"])
        self.origin, self.mean, self.velocity = (list(state[key]) for key in ("origin", "mean", "velocity"))

    def _begin(self, weights: list[nn.Parameter]) -> None:
        self.origin, self.mean = ([weight.detach().clone() for weight in weights] for _ in range(2))
        self.velocity = [torch.zeros_like(weight) for weight in weights]

    def _walk(self, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        settings = self.spec
        rate = settings.inner_lr * (_schedule_factor(optimizer) if settings.inner_schedule else 1.0)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        with torch.no_grad():
            for weight, origin, mean, velocity in zip(weights, self.origin, self.mean, self.velocity, strict=True):
                if weight.grad is None:  # optimizers pass such a weight over too
                    continue
                gradient = weight.grad.add(weight, alpha=decays[id(weight)])
                velocity.mul_(settings.inner_momentum).add_(gradient)
                gradient.add_(velocity, alpha=settings.inner_momentum).add_(weight - origin, alpha=settings.gamma)
                weight.sub_(gradient, alpha=rate)
                weight.add_(torch.randn_like(weight), alpha=settings.noise * math.sqrt(2 * rate))
                mean.lerp_(weight, 1 - settings.alpha)


def _schedule_factor(optimizer: torch.optim.Optimizer) -> float:
    """What the schedule multiplies learning rates with now: the optimizer's, relative to the one it was built with."""
    return float(optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"])
