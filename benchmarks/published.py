"""Robust loss and flatness the way they were published (Stutz, Hein & Schiele 2021, arXiv 2104.04448), as a peer.

Written anew from a description of the procedure and of its released code, step for step: data loaders with batches of
128, a copy of the network for each perturbation, PGD with `backward()` into every parameter and one pass more than it
has steps, the best loss and perturbation of each example kept on the host in every pass, statistics of success and
confidence in every pass, a copy of the network after every weight step. Logging and progress bars are left out.

The released loaders give N x H x W x C images, which are seen as N x C x H x W: PyTorch of today computes with them
channels last. `layout` may ask for its default layout instead.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from workers.weights import perturbed_tensors

Projection = Callable[[Tensor, Tensor], None]
BATCH = 128


@dataclass
class Published:
    """The procedure on one network and one set of images.

    Args:
        model: from images in [0, 1] to logits, in eval mode; its parameters get gradients.
        x: images in [0, 1], N x C x H x W.
        y: labels, N.
        eps, step_size: of the L-inf attack.
        layout: "released" or "default".
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    step_size: float
    layout: str = "released"

    def __post_init__(self) -> None:
        images = self.x.permute(0, 2, 3, 1).contiguous()
        self._loader = DataLoader(TensorDataset(images, self.y), batch_size=BATCH)

    def reference(self, steps: int, restarts: int) -> float:
        """Robust loss at w: of each example the restart with the highest loss."""
        losses = [self._attacked_losses(self.model, steps)[1] for _ in range(restarts)]
        return float(np.max(losses, axis=0).mean())

    def average(self, xi: float, steps: int, draws: int) -> float:
        """Mean robust loss at random perturbations of length xi in every layer."""
        return float(np.mean([self._average_draw(xi, steps) for _ in range(draws)]))

    def worst(self, xi: float, epochs: int, restarts: int, weight_step: float = 0.01) -> float:
        """Largest robust loss at jointly optimised perturbations of at most xi in every layer."""
        return float(np.max([self._worst_restart(xi, epochs, weight_step) for _ in range(restarts)]))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._loader:
            seen = images.permute(0, 3, 1, 2)
            yield (seen if self.layout == "released" else seen.contiguous()), labels

    # ---- the input attack ------------------------------------------------------------------------------------------

    def _attacked_losses(self, model: nn.Module, steps: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Perturbations by batch, and the losses there, N, from another pass over them."""
        perturbations, losses = [], []
        for images, labels in self._batches():
            found = self._attack(model, images, labels, steps)
            perturbations.append(found)
            losses.append(_losses(model, images + torch.from_numpy(found), labels))
        return perturbations, np.concatenate(losses)

    def _attack(self, model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> np.ndarray:
        count = len(labels)
        perturbations = _uniform_in_ball(images, self.eps).requires_grad_(True)
        best_errors = np.full(count, 1e12, dtype=np.float32)
        best = np.zeros(tuple(perturbations.shape), dtype=np.float32)
        rates, gradients = torch.full((count,), self.step_size), torch.zeros_like(perturbations)
        for step in range(steps + 1):
            if perturbations.grad is not None:
                perturbations.grad.zero_()
            self._project(images, perturbations)
            logits = model(images + perturbations)
            assert not torch.isnan(logits).any()
            assert not torch.isnan(perturbations).any()
            errors = 0 * _largest(perturbations) - F.cross_entropy(logits, labels, reduction="none")
            for example in range(count):
                if errors[example].item() < best_errors[example]:
                    best_errors[example] = errors[example].item()
                    best[example] = perturbations[example].detach().numpy()
            errors.sum().backward()
            assert perturbations.grad is not None
            gradient = perturbations.grad.clone()
            assert not torch.isnan(gradient).any()
            gradient.view(count, -1).abs().mean(1)
            _statistics(logits, labels)
            if step == steps:
                break
            gradients = 0 * gradients + 1 * torch.sign(gradient)  # momentum 0
            perturbations.data -= rates.view(-1, 1, 1, 1).expand_as(gradients) * gradients
        return best

    def _project(self, images: Tensor, perturbations: Tensor) -> None:
        """Into the box [0, 1], then into the ball."""
        upper, lower = torch.ones_like(images) - images, torch.zeros_like(images) - images
        perturbations.data = torch.max(torch.min(perturbations.data, upper), lower)
        perturbations.data = torch.clamp(perturbations.data, -self.eps, self.eps)

    # ---- weight attacks --------------------------------------------------------------------------------------------

    def _average_draw(self, xi: float, steps: int) -> float:
        perturbed, forward = copy.deepcopy(self.model), copy.deepcopy(self.model)
        for moved, weight in zip(perturbed_tensors(perturbed), perturbed_tensors(self.model), strict=True):
            direction = torch.randn(weight.numel())
            moved.data = weight.data + xi * weight.data.norm() * (direction / direction.norm()).view(weight.shape)
        _handed_over(perturbed, forward)
        found = copy.deepcopy(forward)
        perturbations, _ = self._attacked_losses(found, steps)
        return self._evaluated(found, perturbations)

    def _worst_restart(self, xi: float, epochs: int, weight_step: float) -> float:
        perturbed, forward = copy.deepcopy(self.model), copy.deepcopy(self.model)
        originals = [weight.data for weight in perturbed_tensors(self.model)]
        for moved, weight in zip(perturbed_tensors(perturbed), originals, strict=True):
            direction, share = torch.randn(weight.numel()), float(torch.rand(()))
            moved.data = weight + share * xi * weight.norm() * (direction / direction.norm()).view(weight.shape)
        _handed_over(perturbed, forward)
        perturbations = [_uniform_in_ball(images, self.eps).numpy() for images, _ in self._batches()]
        for _ in range(epochs):
            for number, (images, labels) in enumerate(self._batches()):
                noise = torch.from_numpy(perturbations[number]).requires_grad_(True)
                for weight in perturbed_tensors(forward):
                    if weight.grad is not None:
                        weight.grad.zero_()
                logits = forward(images + noise)
                errors = -F.cross_entropy(logits, labels, reduction="none")
                errors.mean().backward()
                errors.detach().numpy()
                for statistic in _statistics(logits, labels):
                    statistic.mean().item()
                _distance(originals, perturbed_tensors(forward))
                _largest(noise).mean().item()
                self._weight_step(originals, perturbed, forward, xi, weight_step)
                assert noise.grad is not None
                noise.data -= self.step_size * torch.sign(noise.grad)
                _handed_over(perturbed, forward)
                self._project(images, noise)
                perturbations[number] = noise.detach().numpy()
        return self._evaluated(forward, perturbations)

    def _weight_step(
        self, originals: list[Tensor], perturbed: nn.Module, forward: nn.Module, xi: float, length: float
    ) -> None:
        rows = zip(originals, perturbed_tensors(perturbed), perturbed_tensors(forward), strict=True)
        for original, moved, seen in rows:
            assert seen.grad is not None
            gradient = seen.grad / seen.grad.norm() * original.norm()
            moved.data = moved.data - length * gradient
            offset = moved.data - original
            moved.data = original + offset * torch.clamp(xi * original.norm() / offset.norm(), max=1)

    def _evaluated(self, model: nn.Module, perturbations: list[np.ndarray]) -> float:
        losses = [
            _losses(model, images + torch.from_numpy(found), labels)
            for (images, labels), found in zip(self._batches(), perturbations, strict=True)
        ]
        return float(np.concatenate(losses).mean())


def _uniform_in_ball(images: Tensor, eps: float) -> Tensor:
    """Direction and L-inf norm uniform, drawn on the host."""
    noise = np.random.uniform(-1, 1, size=(len(images), images[0].numel()))
    noise *= eps * np.random.uniform(0, 1, size=(len(images), 1)) / np.abs(noise).max(1, keepdims=True)
    return torch.from_numpy(noise.reshape(tuple(images.shape)).astype(np.float32))


def _handed_over(source: nn.Module, target: nn.Module) -> None:
    """The target's parameters become those of the source; the released code also returns a fresh copy, unused."""
    for given, taken in zip(source.parameters(), target.parameters(), strict=True):
        taken.data = given.data
    copy.deepcopy(source)


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Cross-entropy from probabilities, N."""
    p: np.ndarray = F.softmax(model(x), dim=1).detach().numpy()
    return -np.log(p[np.arange(len(p)), y.numpy()] + 1e-12)


def _largest(perturbations: Tensor) -> Tensor:
    return perturbations.reshape(len(perturbations), -1).abs().max(1).values


def _distance(originals: list[Tensor], weights: list[nn.Parameter]) -> float:
    offsets = [weight.data - original for weight, original in zip(weights, originals, strict=True)]
    return float(torch.cat([offset.reshape(-1) for offset in offsets]).norm())


def _statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Success, confidence in the true class, largest confidence in another; each from a softmax of its own."""
    every = torch.arange(len(labels))
    success = torch.clamp((F.softmax(logits, dim=1).max(1).indices - labels).abs(), max=1).float()
    true = F.softmax(logits, dim=1)[every, labels]
    others = F.softmax(logits, dim=1).detach().clone()
    others[every, labels] = 0
    return success, true, others.max(1).values
