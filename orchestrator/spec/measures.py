"""What is measured on a trained network (SCIENCE.md sections 5 and 6). Implementations live in workers/measures."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Component, Integer, Number, Registry
from orchestrator.spec.training import EvaluationAttack

Count = Annotated[Integer, Field(ge=1)]
Radii = Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Field(min_length=1)]
Protocol = Literal["matched", "stutz21"]


class Measure(Component):
    """Base of the measures."""

    batch_size: Count = 1000
    """Images attacked at once; changes results by rounding only, where no step is shared by the batch."""

    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Names of the values that the measure returns, in the order of tables."""


MEASURES = Registry("measure", Measure, "measures")  # type: ignore[type-abstract]


@MEASURES.register
class Robustness(Measure):
    """Robust and clean loss and error, train and test, at the same weights, and both gaps (SCIENCE.md section 5)."""

    implementation = "workers.measures.robustness:robustness"

    name: Literal["robustness"] = "robustness"
    attack: EvaluationAttack = EvaluationAttack()
    """The attack; PGD-20 by default."""
    train_examples: Count = 1000
    """First so many un-augmented training images (fewer if there are fewer)."""
    test_examples: Count = 1000
    """First so many test images (fewer if there are fewer)."""

    def keys(self) -> tuple[str, ...]:
        """Loss in nats, error as a fraction; `<loss>_gap` is test minus train."""
        kinds = ("robust_loss", "robust_error", "clean_loss", "clean_error")
        return tuple(f"{kind}_{part}" for kind in kinds for part in ("train", "test", "gap"))


class Flatness(Measure):
    """What average- and worst-case flatness of the robust loss share (SCIENCE.md section 6, Stutz21)."""

    protocol: Protocol = "matched"
    """`matched`: one and the same attack budget for the reference and the perturbed robust loss (ours).
    `stutz21`: as the released code, reference with 10 restarts against 1, which biases flatness low."""
    attack: EvaluationAttack = EvaluationAttack()
    """The attack behind the robust loss; PGD-20 by default."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train"] = "test"
    """Which images."""

    def key(self, xi: float) -> str:
        """Name of the value at radius xi."""
        return f"{self.name}_xi{xi:g}" + ("" if self.split == "test" else "_train")


@MEASURES.register
class AverageFlatness(Flatness):
    """Mean over random weight perturbations on the layer-wise sphere of RLoss(w + nu) - RLoss(w)."""

    implementation = "workers.measures.average_flatness:average_flatness"

    name: Literal["average_flatness"] = "average_flatness"
    xi: Radii = (0.5,)
    """Radii relative to each tensor's norm; all share the same directions."""
    draws: Count = 10
    """Random directions."""

    def keys(self) -> tuple[str, ...]:
        """Flatness in nats for each xi, and its standard error over draws."""
        return tuple(name for xi in self.xi for name in (self.key(xi), self.key(xi) + "_se"))


@MEASURES.register
class WorstFlatness(Flatness):
    """Largest robust loss over jointly optimised weight perturbations in the layer-wise ball, minus RLoss(w)."""

    implementation = "workers.measures.worst_flatness:worst_flatness"

    name: Literal["worst_flatness"] = "worst_flatness"
    xi: Radii = (0.003, 0.00075)
    """Radii relative to each tensor's norm (0.003: README, 0.00075: notebook of Stutz21's code)."""
    restarts: Count = 10
    """Independent starts; the largest loss counts."""
    epochs: Annotated[Integer, Field(ge=0)] = 20
    """Passes over the images in each restart."""
    step: Annotated[Number, Field(gt=0)] = 0.01
    """Length of a weight step relative to each tensor's norm."""
    batch_size: Count = 128
    """Images behind each weight step."""

    def keys(self) -> tuple[str, ...]:
        """Flatness in nats for each xi."""
        return tuple(self.key(xi) for xi in self.xi)
