"""Measures of the loss around a network's weights and around its inputs (SCIENCE.md section 7)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Integer, Number, problem
from orchestrator.spec.measures import MEASURES, Count, Measure, attack_passes
from orchestrator.spec.training import Attack, EvaluationAttack

Positive = Annotated[Number, Field(gt=0)]


@MEASURES.register
class Landscape(Measure):
    """Robust and clean loss along random filter-normalised lines or planes through the weights (Wu20, Li et al. 2018).

    g(alpha) = RLoss(w + alpha * d), or g(alpha, beta) = RLoss(w + alpha * d1 + beta * d2).
    """

    implementation = "workers.measures.landscape:landscape"
    presets = {  # noqa: RUF012
        "quick": {"points": 11, "examples": 300, "attack": {"steps": 10}},
        "paper": {"points": 41, "examples": 1000, "attack": {"step_size": "2/255", "steps": 10}},
    }

    name: Literal["landscape"] = "landscape"
    dimensions: Literal[1, 2] = 1
    """1: a curve over alpha. 2: a surface over alpha and beta, `points` squared evaluations."""
    attack: EvaluationAttack = EvaluationAttack()
    """The attack; PGD-20 by default."""
    attack_at: Literal["point", "origin"] = "point"
    """`point`: adversarial examples are found anew at every point (Wu20). `origin`: those found at w are kept, which is
    cheaper and shows how the loss at fixed inputs changes."""
    points: Annotated[Integer, Field(ge=3, le=1001)] = 21
    """Points on each axis, evenly spaced from -reach to reach; odd, so that 0 is one of them."""
    reach: Positive = 1.0
    """Largest |alpha|: at 1 each filter of the offset is as long as that of w."""
    draws: Count = 1
    """Random lines or planes; all networks of one shape share them."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train"] = "test"
    """Which images."""
    rise_at: Positive = 0.5
    """|alpha| at which the rise of the loss is a value; at most `reach`."""
    level: Positive = 0.5
    """Rise in nats at which the width of the valley is taken."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.points % 2 == 0:
            raise problem("points must be odd, so that alpha = 0 is one of them", "points")
        if self.rise_at > self.reach:
            raise problem(f"rise_at {self.rise_at:g} lies outside of reach {self.reach:g}", "rise_at")
        return self

    def alphas(self) -> tuple[float, ...]:
        """The points of an axis, exactly symmetric around 0."""
        last = self.points - 1
        return tuple(self.reach * (2 * index - last) / last for index in range(self.points))

    def key(self, value: Literal["rise", "clean_rise", "width"]) -> str:
        """Name of a value."""
        which = ("_2d" if self.dimensions == 2 else "") + ("_origin" if self.attack_at == "origin" else "")
        at = self.level if value == "width" else self.rise_at
        return f"landscape{which}_{value}{at:g}" + ("" if self.split == "test" else "_train")

    def keys(self) -> tuple[str, ...]:
        """Rise of the robust and of the clean loss in nats, width of the valley in alpha; errors are over lines."""
        names = [self.key(value) for value in ("rise", "clean_rise", "width")]
        return tuple(key for name in names for key in (name, f"{name}_se"))

    def passes(self, attack: Attack) -> float:
        """The origin once and all other points of each draw: clean, and attacked there or at the examples kept."""
        own = attack_passes(self.attack.resolve(attack))
        points: int = self.draws * (self.points**self.dimensions - 1) + 1
        once, each = (0.0, own) if self.attack_at == "point" else (own, 0.5)
        return self.examples * (once + points * (0.5 + each))
