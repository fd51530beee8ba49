"""AutoAttack, norms of the weights, margins and boundary thickness (SCIENCE.md sections 5 and 7)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Integer, Number, problem
from orchestrator.spec.measures import MEASURES, Count, ImageMeasure, Measure, attack_passes
from orchestrator.spec.training import Attack, Ball, EvaluationAttack

AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of AutoAttack's versions, in their order."""
STEPS, TARGETS, QUERIES, REPEATS = 100, 9, 5000, 20
"""AutoAttack's own: gradient steps, target classes, queries of Square, gradients averaged in `rand`."""


@MEASURES.register
class AutoAttack(ImageMeasure):
    """Robust error under AutoAttack (Croce & Hein 2020, arXiv 2003.01690), by the authors' own code."""

    implementation = "workers.measures.autoattack:autoattack"
    presets = {  # noqa: RUF012
        "quick": {"attacks": ("apgd-ce", "apgd-t"), "test_examples": 200},
        "paper": {"version": "standard", "test_examples": 10_000},
    }

    name: Literal["autoattack"] = "autoattack"
    version: Literal["standard", "rand"] = "standard"
    """`standard`: APGD-CE, APGD-T, FAB-T and Square; `rand`, for networks that draw random numbers: APGD-CE and
    APGD-DLR, each step with the mean of 20 gradients."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] | None = None
    """Only these, in this order, each as in `version`; all of the version's if left out. Fewer attacks: a lower bound
    of AutoAttack's error."""
    attack: Ball = Ball()
    """The ball; that of training unless norm or eps are given."""
    test_examples: Count = 1000
    """First so many test images (fewer if there are fewer)."""
    train_examples: Annotated[Integer, Field(ge=0)] = 0
    """First so many un-augmented training images; 0 leaves them out."""
    batch_size: Count = 250
    """Images attacked at once. AutoAttack draws random starts by the place in a batch: another size is another draw."""

    def sets(self) -> tuple[str, ...]:
        """The sets of images that are attacked."""
        return ("train", "test") if self.train_examples else ("test",)

    def keys(self) -> tuple[str, ...]:
        """Errors as fractions; with training images also theirs and the gap, test minus train."""
        prefix = "autoattack" if self.version == "standard" else "autoattack_rand"
        names = [f"{prefix}_error_{part}" for part in (*self.sets(), *(("gap",) if self.train_examples else ()))]
        return (*names, *(f"{name}_se" for name in names))

    def chosen(self) -> tuple[AttackName, ...]:
        """The attacks, in their order."""
        return self.attacks or VERSIONS[self.version]

    def passes(self, attack: Attack) -> float:  # noqa: ARG002  (AutoAttack's budget is its own)
        """Each image clean once, and as if no attack ever fooled it."""
        run = (STEPS + 1) * (REPEATS if self.version == "rand" else 1) + 0.5
        cost = {
            "apgd-ce": run,
            "apgd-dlr": run,
            "apgd-t": TARGETS * run,
            "fab-t": TARGETS * 1.5 * (STEPS + 1),
            "square": QUERIES / 2,
        }
        return (self.test_examples + self.train_examples) * (0.5 + sum(cost[name] for name in self.chosen()))


@MEASURES.register
class Norms(Measure):
    """Norms of the weights: Frobenius, path, product of spectral norms, distance from initialisation (Jiang19)."""

    implementation = "workers.measures.norms:norms"
    needs_initial = True

    name: Literal["norms"] = "norms"
    tolerance: Annotated[Number, Field(gt=0, lt=1)] = 1e-4
    """Relative error at which a layer's spectral norm is good enough."""
    iterations: Count = 200
    """Applications of a convolution and its transpose at most; a layer that needs more is flagged."""

    def keys(self) -> tuple[str, ...]:
        """Norms of whole networks, without unit; the logarithm is the natural one."""
        return (
            "frobenius_norm",
            "path_norm",
            "spectral_norm_product",
            "log_spectral_norm_product",
            "initial_distance",
        )

    def passes(self, attack: Attack) -> float:  # noqa: ARG002  (nothing is attacked)
        """Every layer as often as allowed, on one image."""
        return float(self.iterations)


@MEASURES.register
class Margins(ImageMeasure):
    """A low percentile of the margin z_y - max over k != y of z_k, on clean and adversarial inputs (Jiang19)."""

    implementation = "workers.measures.margins:margins"
    presets = {  # noqa: RUF012
        "quick": {"attack": {"steps": 10}, "train_examples": 500, "test_examples": 500},
        "paper": {"percentile": 10.0, "attack": {"steps": 20}, "train_examples": 1000, "test_examples": 1000},
    }

    name: Literal["margins"] = "margins"
    percentile: Annotated[Number, Field(gt=0, lt=100)] = 10.0
    """Which percentile of the examples' margins, in per cent."""
    attack: EvaluationAttack = EvaluationAttack()
    """The attack behind the adversarial inputs; PGD-20 by default."""
    train_examples: Count = 1000
    """First so many un-augmented training images (fewer if there are fewer)."""
    test_examples: Count = 1000
    """First so many test images (fewer if there are fewer)."""

    def key(self, kind: str, part: str) -> str:
        """Name of the value on clean or adversarial inputs of one set."""
        return f"margin_p{self.percentile:g}_{kind}_{part}"

    def keys(self) -> tuple[str, ...]:
        """Margins in units of logits, and their standard errors."""
        names = [self.key(kind, part) for kind in ("clean", "adversarial") for part in ("train", "test")]
        return (*names, *(f"{name}_se" for name in names))

    def passes(self, attack: Attack) -> float:
        """Both sets, clean and attacked, each looked at once more."""
        return (self.train_examples + self.test_examples) * (1 + attack_passes(self.attack.resolve(attack)))


@MEASURES.register
class BoundaryThickness(ImageMeasure):
    """How long the way from an image to another class is on which the network is unsure (Yang et al. 2020).

    Boundary thickness and robustness in learning models, arXiv 2007.05086.
    """

    implementation = "workers.measures.boundary_thickness:boundary_thickness"
    presets = {  # noqa: RUF012
        "quick": {"examples": 100, "points": 32, "steps": 10},
        "paper": {"split": "train", "examples": 320, "eps": 1.0, "step_size": 0.2, "steps": 20, "points": 128},
    }

    name: Literal["boundary_thickness"] = "boundary_thickness"
    alpha: Annotated[Number, Field(gt=-1, lt=1)] = 0.0
    """Lower end of the difference of the two classes' probabilities that counts as unsure."""
    beta: Annotated[Number, Field(gt=-1, lt=1)] = 0.75
    """Its upper end."""
    eps: Annotated[Number, Field(gt=0)] = 1.0
    """Radius of the L2 ball in which the way ends, in units of the pixel range: large enough to reach other classes."""
    step_size: Annotated[Number, Field(gt=0)] = 0.2
    """Length of a step of the attack, in the same units."""
    steps: Annotated[Integer, Field(ge=1, le=10_000)] = 20
    """Its gradient steps."""
    points: Annotated[Integer, Field(ge=2)] = 128
    """Places on the way at which the network is looked at."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train"] = "test"
    """Which images."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.alpha >= self.beta:
            raise problem(f"alpha {self.alpha:g} is not below beta {self.beta:g}", "alpha")
        return self

    def keys(self) -> tuple[str, ...]:
        """Euclidean length in units of the pixel range, and its standard error over images."""
        name = self.name if self.split == "test" else f"{self.name}_train"
        return (name, f"{name}_se")

    def passes(self, attack: Attack) -> float:  # noqa: ARG002  (the attack is its own)
        """The prediction, the attack, its end, and every point."""
        return self.examples * (0.5 + self.steps + 0.5 + 0.5 * self.points)
