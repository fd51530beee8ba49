"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): an ascent with momentum that finds its step length by itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOMENTUM = 0.75
"""Weight of a step against the momentum."""
ENOUGH = 0.75
"""Share of steps that must improve the objective for the step length to stay."""


class AutoPgd:
    """Climbs within a ball around 0; give it the value and the gradient at `point` by `seen`, then look at `point`.

    Args:
        start: the first point, inside the ball, as a list of tensors that are one vector together.
        norm: `linf` or `l2` of that vector.
        radius: of the ball.
        steps: number of gradients that will be given; the value at the last point is given without one.
    """

    def __init__(self, start: Sequence[Tensor], norm: str, radius: float, steps: int) -> None:
        self.point = list(start)
        self.best, self.best_value = self.point, -math.inf
        self._norm, self._radius = norm, radius
        self._step, self._before = 2 * radius, self.point
        self._looks = checkpoints(steps)
        self._done = self._improved = self._last_look = 0
        self._value = math.inf
        self._step_then, self._best_then = self._step, -math.inf

    def seen(self, value: float, gradient: Sequence[Tensor]) -> None:
        """Takes the objective at `point` and moves on along its gradient; without one it only takes the objective."""
        # the gradient at the best point is needed again where the ascent goes back to it
        if value > self.best_value:
            self.best, self.best_value, self._best_gradient = self.point, value, list(gradient)
        self._improved += value > self._value
        self._value = value
        if not gradient:
            return
        if self._done in self._looks and self._should_halve():
            self._step /= 2
            self.point, gradient, self._value = self.best, self._best_gradient, self.best_value
            self._before = self.point
        self._move(gradient)
        self._done += 1

    def _should_halve(self) -> bool:
        """Whether too few steps improved the objective, or nothing happened since the last look."""
        few = self._improved < ENOUGH * (self._done - self._last_look)
        stuck = self._step == self._step_then and self.best_value == self._best_then
        self._last_look, self._improved = self._done, 0
        self._step_then, self._best_then = self._step, self.best_value
        return few or stuck

    def _move(self, gradient: Sequence[Tensor]) -> None:
        ahead = self._projected(torch._foreach_add(self.point, self._direction(gradient), alpha=self._step))
        if self._done:
            along = torch._foreach_sub(ahead, self.point)
            torch._foreach_mul_(along, MOMENTUM)
            torch._foreach_add_(along, torch._foreach_sub(self.point, self._before), alpha=1 - MOMENTUM)
            ahead = self._projected(torch._foreach_add(self.point, along))
        self._before, self.point = self.point, list(ahead)

    def _direction(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Of length 1: the steepest in the norm."""
        if self._norm == "linf":
            return [tensor.sign() for tensor in gradient]
        length = _length(gradient).clamp_min(1e-30)
        return [tensor / length for tensor in gradient]

    def _projected(self, point: Sequence[Tensor]) -> list[Tensor]:
        """The nearest point of the ball."""
        if self._norm == "linf":
            return [tensor.clamp(-self._radius, self._radius) for tensor in point]
        shrink = (self._radius / _length(point).clamp_min(1e-30)).clamp(max=1)
        return [tensor * shrink for tensor in point]


def _length(vector: Sequence[Tensor]) -> Tensor:
    length: Tensor = torch.stack(torch._foreach_norm(list(vector))).norm()
    return length


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps after which the step length is looked at: ceil(p_j * steps), p = 0.22, 0.41, 0.57, ..."""
    before, share = 0.0, 0.22
    found = []
    while share <= 1:
        found.append(math.ceil(share * steps - 1e-9))  # 0.57 * 100 is a little more than 57
        before, share = share, share + max(share - before - 0.03, 0.06)
    return found
