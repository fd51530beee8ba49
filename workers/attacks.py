"""Projected gradient descent (PGD) on the input: the inner loop of everything, so it does nothing that it need not."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.training import Attack
from workers import faults
from workers.folding import folded

Objective = Callable[[Tensor], Tensor]
"""From logits, B x C, to what the attack maximises, one value per example, B."""
Start = Callable[[Tensor, Attack, torch.Generator], Tensor]
"""From images, attack and random source to the first iterate."""


def cross_entropy_objective(y: Tensor) -> Objective:
    """Cross-entropy with labels y, int64, B."""
    return lambda logits: F.cross_entropy(logits, y, reduction="none")


def pgd(
    model: nn.Module,
    x: Tensor,
    objective: Objective,
    attack: Attack,
    random: torch.Generator,
    start: Start | None = None,
) -> Tensor:
    """Adversarial examples within `attack`'s ball around x and within [0, 1].

    The model is attacked in eval mode with its parameters frozen, and is left as it was.

    Args:
        model: from images to logits.
        x: images in [0, 1], B x C x H x W.
        objective: maximised for each example.
        attack: ball, steps, restarts.
        random: source of the random starts.
        start: where each restart begins; `random_start` if not given.

    Returns:
        Images like x; per example the restart with the highest objective.
    """
    start = start or random_start
    with folded(model, precision=attack.precision):
        if attack.restarts == 1:
            return ascend(model, x, start(x, attack, random), objective, attack, want_value=False)[0]
        best, best_value = ascend(model, x, start(x, attack, random), objective, attack)
        for _ in range(attack.restarts - 1):
            found, value = ascend(model, x, start(x, attack, random), objective, attack)
            best, best_value = _better(best, best_value, found, value)
    return best


def random_start(x: Tensor, attack: Attack, random: torch.Generator) -> Tensor:
    """Where the ascent starts: x itself, or uniform in the ball around it; always within [0, 1]."""
    if not attack.random_start:
        return x
    if attack.norm == "linf":
        noise = torch.empty_like(x).uniform_(-attack.eps, attack.eps, generator=random)
    else:
        direction = torch.empty_like(x).normal_(generator=random)
        radius = torch.rand(len(x), generator=random, device=x.device) ** (1 / math.prod(x.shape[1:]))
        noise = direction * _over_images(attack.eps * radius / _norms(direction), x)
    return (x + noise).clamp_(0, 1)


def ascend(
    model: nn.Module, x: Tensor, start: Tensor, objective: Objective, attack: Attack, want_value: bool = True
) -> tuple[Tensor, Tensor]:
    """One ascent from `start`, on a frozen model.

    Args:
        model: from images to logits, frozen (see `workers.modes.frozen`; `workers.folding.folded` is faster).
        x: centres of the balls, B x C x H x W.
        start: first iterates, inside the balls.
        objective: maximised for each example.
        attack: ball, step, steps; `best_iterate` also looks at the start and at the last iterate.
        want_value: whether the second result is needed; without it the last iterate costs no forward pass.

    Returns:
        Images like x, and their objective, B (empty if not wanted and not known).
    """
    step = ascent_step(x, attack)
    iterate, best, best_value = start, start, torch.empty(0, device=x.device)
    for index in range(attack.steps):
        iterate = iterate.detach().requires_grad_(True)
        value = objective(model(iterate))
        (gradient,) = torch.autograd.grad(value.sum(), iterate)
        faults.point("attack/step")
        if attack.best_iterate:
            value = value.detach()
            best, best_value = (iterate, value) if index == 0 else _better(best, best_value, iterate, value)
        iterate = step(iterate.detach(), gradient)
    if not attack.best_iterate and not want_value:
        return iterate, best_value
    with torch.no_grad():
        value = objective(model(iterate))
    if attack.best_iterate:
        best, best_value = _better(best, best_value, iterate, value)
        return best.detach(), best_value
    return iterate, value


Step = Callable[[Tensor, Tensor], Tensor]
"""From an iterate and its gradient (which may be overwritten) to the next iterate."""


def ascent_step(x: Tensor, attack: Attack) -> Step:
    """One step of `attack`, projected to its ball around x and to [0, 1]."""
    return _linf_step(x, attack) if attack.norm == "linf" else _l2_step(x, attack)


def _linf_step(x: Tensor, attack: Attack) -> Step:
    lower, upper = (x - attack.eps).clamp_(min=0), (x + attack.eps).clamp_(max=1)

    def step(iterate: Tensor, gradient: Tensor) -> Tensor:
        return torch.clamp(iterate.add(gradient.sign_(), alpha=attack.step_size), lower, upper)

    return step


def _l2_step(x: Tensor, attack: Attack) -> Step:
    def step(iterate: Tensor, gradient: Tensor) -> Tensor:
        moved = iterate + gradient * _over_images(attack.step_size / _norms(gradient), x)
        offset = moved - x
        inside = offset * _over_images((attack.eps / _norms(offset)).clamp_(max=1), x)
        return (x + inside).clamp_(0, 1)

    return step


def moved_offset(offset: Tensor, gradient: Tensor, length: float, attack: Attack) -> Tensor:
    """An offset one step of `length` along the gradient, within the ball of `attack` around 0; [0, 1] has no say."""
    if attack.norm == "linf":
        return offset.add(gradient.sign(), alpha=length).clamp_(-attack.eps, attack.eps)
    moved = offset + gradient * _over_images(length / _norms(gradient), offset)
    return moved * _over_images((attack.eps / _norms(moved)).clamp_(max=1), offset)


def _norms(images: Tensor) -> Tensor:
    """Euclidean norm of each image; never zero."""
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms.clamp_min(1e-12)


def _over_images(values: Tensor, x: Tensor) -> Tensor:
    """One value per example, shaped to broadcast over its pixels."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _better(best: Tensor, best_value: Tensor, iterate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    improved = value > best_value
    return torch.where(_over_images(improved, iterate), iterate, best), torch.where(improved, value, best_value)
