"""What is measured on a trained network: robustness and flatness (SCIENCE.md sections 5 and 6), and what all share.

The other families stand in modules beside, which register their measures when `sweep` imports them. Implementations
live in workers/measures.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.spec.base import Component, Integer, Number, Registry, added_field, location
from orchestrator.spec.training import Attack, EvaluationAttack

Count = Annotated[Integer, Field(ge=1)]
Radii = Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Field(min_length=1)]
KINDS = ("robust_loss", "robust_error", "clean_loss", "clean_error")
"""What is measured on training and test images."""
Protocol = Literal["matched", "stutz21"]
STUTZ21_REFERENCE_RESTARTS = 10
"""Restarts behind the reference robust loss in the released code, against 1 behind the perturbed one."""


class Measure(Component):
    """Base of the measures."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Settings by preset: `quick` to look, `paper` as published."""
    needs_initial: ClassVar[bool] = False
    """Whether the implementation takes `initial`, a function that builds the network before training: None where the
    network was not trained here."""

    preset: Literal["quick", "paper"] | None = location(None)
    """Fills in what is not given: `quick` settings to look with, or those of the `paper`. It is the settings that
    identify an evaluation, not where they came from."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        chosen = value.get("preset") if isinstance(value, dict) else None
        return _merged(cls.presets[chosen], value) if isinstance(chosen, str) and chosen in cls.presets else value

    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Names of the values that the measure returns, in the order of tables."""

    def passes(self, attack: Attack) -> float:  # noqa: ARG002  (others need it)
        """Predicted cost: forward-backward passes of single images, an upper bound; 0 where it is not known.

        Args:
            attack: the training attack, for what the measure's own leaves out.
        """
        return 0.0


def value_keys(measures: Iterable[Measure]) -> list[str]:
    """Names of everything that measures return, in the order of tables; what two of them return is there twice."""
    return [key for measure in measures for key in measure.keys()]  # noqa: SIM118  (a method)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` with what only `below` has; mappings key by key."""
    both = {
        key: _merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | both


def attack_passes(attack: Attack) -> float:
    """Forward-backward passes of one image under an attack and a look at what it found; a look is half of one."""
    return attack.restarts * (attack.steps + (1.0 if attack.best_iterate else 0.5))


class ImageMeasure(Measure):
    """A measure over images, which go through the network in batches."""

    batch_size: Count = 1000
    """Images attacked at once; changes results by rounding only, where no step is shared by the batch."""


MEASURES = Registry("measure", Measure, "measures")  # type: ignore[type-abstract]


@MEASURES.register
class Robustness(ImageMeasure):
    """Robust and clean loss and error, train and test, at the same weights, and both gaps (SCIENCE.md section 5)."""

    implementation = "workers.measures.robustness:robustness"
    presets = {  # noqa: RUF012  (a class variable of the base)
        "quick": {"attack": {"steps": 10}, "train_examples": 500, "test_examples": 500},
        "paper": {"attack": {"steps": 20, "restarts": 10}, "train_examples": 1000, "test_examples": 1000},
    }

    name: Literal["robustness"] = "robustness"
    attack: EvaluationAttack = EvaluationAttack()
    """The attack; PGD-20 by default."""
    train_examples: Count = 1000
    """First so many un-augmented training images (fewer if there are fewer)."""
    test_examples: Count = 1000
    """First so many test images (fewer if there are fewer)."""

    def keys(self) -> tuple[str, ...]:
        """Loss in nats, error as a fraction; `<loss>_gap` is test minus train; each with its standard error."""
        names = [f"{kind}_{part}" for kind in KINDS for part in ("train", "test", "gap")]
        return (*names, *(f"{name}_se" for name in names))

    def passes(self, attack: Attack) -> float:
        """Both sets, attacked, and clean once."""
        return (self.train_examples + self.test_examples) * (0.5 + attack_passes(self.attack.resolve(attack)))


class Flatness(ImageMeasure):
    """What average- and worst-case flatness of the robust loss share (SCIENCE.md section 6, Stutz21)."""

    protocol: Protocol = "matched"
    """`matched`: one and the same attack budget for the reference and the perturbed robust loss (ours).
    `stutz21`: as the released code, reference with 10 restarts against 1, which biases flatness low."""
    attack: EvaluationAttack = EvaluationAttack()
    """The attack behind the robust loss; PGD-20 by default."""
    examples: Count = 1000
    """First so many images of the split (fewer if there are fewer)."""
    split: Literal["test", "train", "both"] = "test"
    """Which images. `both` measures each set at the same perturbations (average case), or climbs on each (worst)."""
    norm: Literal["layer", "filter"] = added_field("layer")
    """What radii are relative to: the norm of each tensor (Stutz21), or of each filter, which is the kernel behind one
    output channel, a row of a matrix, an entry of a bias."""
    quantity: Literal["loss", "error", "both"] = added_field("loss")
    """What rises: the robust loss, the robust error, or both in one pass. The worst case climbs the loss always."""
    per_layer: bool = added_field(False)
    """Also perturb one tensor at a time, as if each were the only one: increases as arrays `<value>_layer_<tensor>`."""

    def columns(self) -> tuple[tuple[str, str], ...]:
        """(quantity, set of images) of every value."""
        quantities = ("loss", "error") if self.quantity == "both" else (self.quantity,)
        sets = ("test", "train") if self.split == "both" else (self.split,)
        return tuple((quantity, images) for quantity in quantities for images in sets)

    def evaluation_passes(self, attack: Attack) -> float:
        """Passes of the images of a set behind one look at it under `attack`; an error also looks at clean ones."""
        return self.examples * (attack_passes(attack) + (0.0 if self.quantity == "loss" else 0.5))

    def sets(self) -> int:
        """Number of sets of images."""
        return 2 if self.split == "both" else 1

    def reference_attack(self, attack: Attack) -> Attack:
        """The attack behind RLoss(w): the budget behind RLoss(w + nu), or the released code's stronger one."""
        budget = self.attack.resolve(attack)
        if self.protocol == "matched":
            return budget
        return budget.model_copy(update={"restarts": STUTZ21_REFERENCE_RESTARTS, "random_start": True})

    def key(self, xi: float, column: tuple[str, str] | None = None) -> str:
        """Name of the value at radius xi of a column, the first if left out."""
        return f"{self.name}_xi{xi:g}{self.suffix(column or self.columns()[0])}"

    def suffix(self, column: tuple[str, str]) -> str:
        """What is not the default, at the end of names."""
        quantity, images = column
        shown = (("_filter", self.norm == "filter"), ("_error", quantity == "error"), ("_train", images == "train"))
        return "".join(text for text, applies in shown if applies)


@MEASURES.register
class AverageFlatness(Flatness):
    """Mean over random weight perturbations on the layer-wise sphere of RLoss(w + nu) - RLoss(w)."""

    implementation = "workers.measures.average_flatness:average_flatness"
    presets = {  # noqa: RUF012
        "quick": {"draws": 3, "examples": 300, "attack": {"steps": 10}},
        "paper": {"xi": (0.5,), "draws": 10, "examples": 1000, "protocol": "stutz21", "attack": {"steps": 20}},
    }

    name: Literal["average_flatness"] = "average_flatness"
    xi: Radii = (0.5,)
    """Radii relative to each tensor's norm; all share the same directions."""
    draws: Count = 10
    """Random directions."""

    def keys(self) -> tuple[str, ...]:
        """Flatness in nats, or as a fraction, for each xi, and its standard error over draws."""
        names = [self.key(xi, column) for xi in self.xi for column in self.columns()]
        return tuple(key for name in names for key in (name, f"{name}_se"))

    def passes(self, attack: Attack) -> float:
        """The reference, and an attack for each draw and radius; `per_layer` as often again as there are tensors."""
        if self.per_layer:
            return 0.0
        own = self.evaluation_passes(self.attack.resolve(attack))
        reference = self.evaluation_passes(self.reference_attack(attack))
        return self.sets() * (reference + len(self.xi) * self.draws * own)


@MEASURES.register
class WorstFlatness(Flatness):
    """Largest robust loss over jointly optimised weight perturbations in the layer-wise ball, minus RLoss(w)."""

    implementation = "workers.measures.worst_flatness:worst_flatness"
    presets = {  # noqa: RUF012
        "quick": {"restarts": 2, "epochs": 10, "examples": 300, "attack": {"steps": 10}},
        "paper": {"xi": (0.003, 0.00075), "restarts": 10, "epochs": 20, "examples": 1000, "protocol": "stutz21"},
    }

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
        """Flatness in nats, or as a fraction, for each xi."""
        return tuple(self.key(xi, column) for xi in self.xi for column in self.columns())

    def passes(self, attack: Attack) -> float:
        """The reference, the joint ascents, and after each an attack or a look; `per_layer` makes more of them."""
        if self.per_layer:
            return 0.0
        if self.protocol == "matched":
            final = self.evaluation_passes(self.attack.resolve(attack))
        else:
            final = self.examples * (0.5 if self.quantity == "loss" else 1.0)
        climbs = len(self.xi) * self.restarts * (self.examples * self.epochs + final)
        return self.sets() * (self.evaluation_passes(self.reference_attack(attack)) + climbs)
