"""AutoAttack, norms of the weights, margins and boundary thickness (SCIENCE.md sections 5 and 7)."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Integer, Number
from orchestrator.spec.measures import MEASURES, Count, Measure
from orchestrator.spec.training import Attack, Ball

AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of AutoAttack's versions, in their order."""
STEPS, TARGETS, QUERIES, REPEATS = 100, 9, 5000, 20
"""AutoAttack's own: gradient steps, target classes, queries of Square, gradients averaged in `rand`."""


@MEASURES.register
class AutoAttack(Measure):
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
    batch_size: Count = 1
    """Not used: a network of weights alone has no batches."""

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
