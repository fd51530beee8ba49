"""Measures of the loss around a network's weights and around its inputs (SCIENCE.md section 7)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Integer, Number, problem
from orchestrator.spec.measures import MEASURES, Count, ImageMeasure, attack_passes
from orchestrator.spec.training import Attack, EvaluationAttack

Positive = Annotated[Number, Field(gt=0)]


@MEASURES.register
class Landscape(ImageMeasure):
    """Robust and clean loss along random filter-normalised lines or planes through the weights (Wu20, Li et al. 2018).

    g(alpha) = RLoss(w + alpha * d), or g(alpha, beta) = RLoss(w + alpha * d1 + beta * d2).
    """

    implementation = "workers.measures.landscape:landscape"
    presets = {  # noqa: RUF012
        "quick": {"points": 11, "examples": 300, "attack": {"steps": 10}},
        # Wu20's attack; numbers of points and images are ours
        "paper": {"points": 41, "examples": 1000, "attack": {"step_size": "2/255", "steps": 10, "best_iterate": False}},
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
        return self.named(f"_{value}{self.level if value == 'width' else self.rise_at:g}")

    def named(self, what: str = "") -> str:
        """`what` with the measure's name before it and what is not the default around it."""
        which = ("_2d" if self.dimensions == 2 else "") + ("_origin" if self.attack_at == "origin" else "")
        return f"{self.name}{which}{what}" + ("" if self.split == "test" else "_train")

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


INPUTS = ("clean", "adversarial")
"""Around which the loss is looked at."""
AROUND_INPUTS = ("gradient_l1", "curvature", "linearity_error")
"""What is looked at there."""


@MEASURES.register
class InputLandscape(ImageMeasure):
    """Slope, curvature and non-linearity of the loss over the pixels, around clean and adversarial inputs (Li22)."""

    implementation = "workers.measures.input_landscape:input_landscape"
    presets = {  # noqa: RUF012
        "quick": {"examples": 100, "attack": {"steps": 10}, "linearity": {"steps": 10}},
        "paper": {"examples": 1000, "eigenvalues": 20},  # the number of images is ours
    }

    name: Literal["input_landscape"] = "input_landscape"
    attack: EvaluationAttack = EvaluationAttack()
    """The attack that makes the adversarial inputs; PGD-20 by default."""
    linearity: EvaluationAttack = EvaluationAttack()
    """The ascent on the local linearity error: ball, steps, restarts; it needs `random_start`, as the error is least,
    0, at the input itself."""
    eigenvalues: Count = 20
    """Eigenvalues of each image's Hessian, the largest in magnitude (fewer if an image has fewer values)."""
    exact_up_to: Annotated[Integer, Field(ge=0, le=4096)] = 32
    """Values of an image (channels x height x width) up to which its whole Hessian is built; beyond, Lanczos, which
    finds the same in fewer products."""
    lanczos_steps: Count = 100
    """At most so many Lanczos steps; fewer where the eigenvalues have converged."""
    tolerance: Annotated[Number, Field(gt=0, lt=1)] = 1e-3
    """An eigenvalue has converged when its residual is at most this share of the largest in magnitude."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train"] = "test"
    """Which images."""
    batch_size: Count = 100
    """Images whose Hessians are looked at together; changes results by rounding only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.linearity.random_start:
            raise problem("linearity needs random_start: at the input itself the error has no slope", "linearity")
        if self.linearity.precision != "fp32":
            raise problem("linearity is a small difference of losses, which bf16 would lose in rounding", "linearity")
        return self

    def key(self, value: str, inputs: str) -> str:
        """Name of a value of `AROUND_INPUTS` around `inputs`."""
        what = f"curvature_top{self.eigenvalues}" if value == "curvature" else value
        return f"input_{what}_{inputs}" + ("" if self.split == "test" else "_train")

    def keys(self) -> tuple[str, ...]:
        """Means over images with their standard errors: nats per unit of a pixel, nats per unit squared, nats."""
        names = [self.key(value, inputs) for inputs in INPUTS for value in AROUND_INPUTS]
        return tuple(key for name in names for key in (name, f"{name}_se"))

    def passes(self, attack: Attack) -> float:
        """The attack; around both inputs a gradient, products with Hessians, two passes each, and the ascent."""
        products = max(self.lanczos_steps, self.exact_up_to)
        around = 1 + 2 * products + attack_passes(self.linearity.resolve(attack))
        return self.examples * (attack_passes(self.attack.resolve(attack)) + len(INPUTS) * around)
