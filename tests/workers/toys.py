"""Small data, networks, trials and references that the workers' tests share."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from orchestrator.spec.data import Digits
from orchestrator.spec.models import SmallPreActResNet
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.sweep import Trial
from orchestrator.spec.training import Attack
from workers.data.arrays import Arrays
from workers.data.splits import Images, Splits, load_splits
from workers.models.classifier import Classifier, build_classifier

CPU = torch.device("cpu")
DATA = {"name": "digits", "train_size": 200, "validation_size": 50, "test_size": 100}
ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 2}
PLAIN = {"name": "sgd", "lr": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0}
"""The optimizer that moves the weights by lr times the gradient and nothing else."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> Splits:
    """With some images without labels, their labels guessed already, for the methods that take them."""
    splits = load_splits(Digits(**DATA), CPU)
    return replace(splits, unlabeled=splits.validation)


def trial(method: Any = "at", regularizers: Any = (), *, seed: int = 0, lr: float = 0.05, **training: Any) -> Trial:
    recipe = {"epochs": 6, "batch_size": 50, "schedule": "constant", "optimizer": {"name": "sgd", "lr": lr}}
    return Trial(
        data=DATA,
        model={"name": "small_preact_resnet", "width": 4},
        method=method,
        regularizers=regularizers,
        training={**recipe, "attack": ATTACK, **training},
        seed=seed,
    )


def regularizer(name: str, **parameters: Any) -> Any:
    """The implementation of a regulariser."""
    spec = REGULARIZERS.parse({"name": name, **parameters})
    return spec.load()(spec)


def numbered(train: int, test: int | None) -> Arrays:
    """Images that carry their own number, and labels that follow from it."""

    def images(count: int, first: int) -> np.ndarray:
        numbers = np.arange(first, first + count)
        return np.stack([numbers // 256, numbers % 256], 1).astype(np.uint8).reshape(count, 1, 2, 1)

    x_test = None if test is None else images(test, 10_000)
    y_test = None if test is None else (10_000 + np.arange(test)) % 7
    return Arrays(images(train, 0), np.arange(train) % 7, x_test, y_test, 7)


def numbers(part: Images) -> list[int]:
    assert part.x.dtype == torch.uint8 and part.x.shape[1:] == (1, 1, 2)
    found = [int(a) * 256 + int(b) for a, b in part.x.flatten(1)]
    assert [n % 7 for n in found] == part.y.tolist()  # every image kept its label
    return found


def digits_network(seed: int = 0) -> Classifier:
    return build_classifier(SmallPreActResNet(width=4), digits(), seed, CPU)


def conv_net(seed: int = 0, classes: int = 3, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A smooth network with batch normalisation for 2 x 4 x 4 images; nothing in it is at its initial 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, classes)
        )
        norm = net[1]
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 1.5),
        ):
            nn.init.uniform_(tensor, low, high)
        with torch.no_grad():
            net[4].weight.mul_(4)
    return net.to(dtype)


def images(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images for `conv_net`, with pixels on the borders 0 and 1 among them."""
    x = torch.rand(count, 2, 4, 4, generator=seeded(seed), dtype=torch.float64)
    x = torch.where(x < 0.1, 0.0, torch.where(x > 0.9, 1.0, x))
    return x.to(dtype)


def labels(count: int, classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=seeded(seed + 1000))


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a network that a well-behaved visitor leaves as it was."""
    return {
        "tensors": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "tracking": [m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d)],
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("modes", "flags", "tracking"):
        assert before[key] == after[key], key
    for name, tensor in before["tensors"].items():
        assert torch.equal(tensor, after["tensors"][name]), name
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)


def naive_pgd(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, start: Tensor) -> Tensor:
    """PGD as a textbook writes it: loss.backward() through everything, projection of the offset."""
    model = copy.deepcopy(model).eval()
    current, best, best_loss = start.clone(), start.clone(), torch.full((len(x),), -torch.inf, dtype=x.dtype)

    def losses(z: Tensor) -> Tensor:
        return F.cross_entropy(model(z), y, reduction="none")

    for index in range(attack.steps + 1):
        current = current.detach().requires_grad_(True)
        loss = losses(current)
        for i in range(len(x)):
            if loss[i] > best_loss[i]:
                best[i], best_loss[i] = current[i].detach(), loss[i].detach()
        if index == attack.steps:
            break
        loss.mean().backward()
        gradient = current.grad
        assert gradient is not None
        if attack.norm == "linf":
            delta = current.detach() + attack.step_size * gradient.sign() - x
            delta = delta.clamp(-attack.eps, attack.eps)
        else:
            rows = []
            for offset, g in zip(current.detach() - x, gradient, strict=True):
                moved = offset + (attack.step_size * g / g.norm() if g.norm() > 0 else 0)
                rows.append(moved * min(1.0, attack.eps / float(moved.norm())) if moved.norm() > 0 else moved)
            delta = torch.stack(rows)
        current = (x + delta).clamp(0, 1)
    return best if attack.best_iterate else current.detach()


class TwoWeights(nn.Module):
    """Logits (0, w . x) of images with two pixels: two parameters, so that everything can be enumerated."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([w]))

    def forward(self, x: Tensor) -> Tensor:
        score = self.layer(x.flatten(1))
        return torch.cat([torch.zeros_like(score), score], 1)


def two_pixel_splits(count: int = 24) -> Splits:
    """Images away from 0 and 1, so that the ball is never cut by the box."""
    pixels = torch.randint(80, 176, (count, 1, 1, 2), generator=seeded(3), dtype=torch.uint8)
    part = Images(pixels, torch.randint(2, (count,), generator=seeded(4)))
    return Splits(train=part, validation=part, test=part, classes=2, digest="")
