"""The training methods (SCIENCE.md section 3): names, parameters, ranges, sources. Code: workers/methods."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.spec.base import Component, Integer, Number, Registry, Selection, added_field


class Method(Component):
    """Base of the training methods."""

    weight_perturbable: ClassVar[bool] = False
    """Whether methods that perturb the weights, such as AWP, may go over its loss."""


def layers(method: Method) -> Iterator[Method]:
    """The method, the one that it goes over, and so on down to one that stands alone."""
    while True:
        yield method
        if not isinstance(under := getattr(method, "over", None), Method):
            return
        method = under


METHODS = Registry("method", Method, "methods")
WEIGHT_PERTURBABLE = Selection("method under awp", METHODS, lambda cls: cls.weight_perturbable)
"""The methods whose loss adversarial weight perturbation can wrap."""


@METHODS.register
class Standard(Method):
    """Training on clean images with cross-entropy."""

    implementation = "workers.methods.standard:Standard"

    name: Literal["standard"] = "standard"


@METHODS.register
class AdversarialTraining(Method):
    """Adversarial training: cross-entropy at PGD examples (Madry et al. 2018, arXiv 1706.06083)."""

    implementation = "workers.methods.adversarial:AdversarialTraining"
    weight_perturbable = True

    name: Literal["at"] = "at"
    adversarial_fraction: Annotated[Number, Field(gt=0, le=1)] = added_field(1.0)
    """Share of each batch that is attacked; the rest is trained on as it is (Stutz21: 1 or 0.5)."""


@METHODS.register
class Trades(Method):
    """TRADES: clean cross-entropy + beta * KL(p(x) || p(x_adv)) (Zhang et al. 2019, arXiv 1901.08573)."""

    implementation = "workers.methods.trades:Trades"
    weight_perturbable = True

    name: Literal["trades"] = "trades"
    beta: Annotated[Number, Field(ge=0)] = 6.0
    """Weight of the KL term (swept over 1, 3, 6, 9 in Stutz21)."""


@METHODS.register
class Mart(Method):
    """MART: boosted cross-entropy + beta * KL weighted by 1 - p_y(x) (Wang et al. 2020, ICLR)."""

    implementation = "workers.methods.mart:Mart"
    weight_perturbable = True

    name: Literal["mart"] = "mart"
    beta: Annotated[Number, Field(ge=0)] = 5.0
    """Weight of the KL term (official default 5 to 6)."""


@METHODS.register
class PgdTau(Method):
    """AT in which each example's attack stops tau steps after it is first misclassified (Stutz21)."""

    implementation = "workers.methods.pgd_tau:PgdTau"
    weight_perturbable = True

    name: Literal["pgd_tau"] = "pgd_tau"
    tau: Annotated[Integer, Field(ge=0)] = 1
    """Steps that are still taken after the first misclassification (swept over 0 to 4 in Stutz21)."""


@METHODS.register
class SelfSupervision(Method):
    """AT + weight * cross-entropy of a 4-way rotation head on the penultimate features (Hendrycks et al. 2019)."""

    implementation = "workers.methods.self_supervision:SelfSupervision"
    weight_perturbable = True

    name: Literal["self_supervision"] = "self_supervision"
    weight: Annotated[Number, Field(ge=0)] = 1.0
    """lambda: weight of the rotation loss (swept over .5, 1, 2, 4, 8 in Stutz21)."""


@METHODS.register
class AdvLogitConsistency(Method):
    """AdvLC: AT + weight * sum of the largest absolute logit differences of x and x_adv / B (Li22)."""

    implementation = "workers.methods.advlc:AdvLogitConsistency"
    weight_perturbable = True

    name: Literal["advlc"] = "advlc"
    weight: Annotated[Number, Field(ge=0)] = 0.3
    """lambda: weight of the regulariser."""
    top: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """Share of the B x C differences that is penalised, the largest ones."""
    linear_warmup: bool = False
    """lambda grows as lambda * (epoch + 1) / epochs."""


@METHODS.register
class IgnoreIncorrect(Method):
    """AT that trains on the clean image where it is misclassified already (Stutz21)."""

    implementation = "workers.methods.incorrect:IgnoreIncorrect"
    weight_perturbable = True

    name: Literal["ignore_incorrect"] = "ignore_incorrect"


@METHODS.register
class PreventLabelLeaking(Method):
    """AT whose attack starts from the predicted label instead of the true one (Stutz21; Kurakin et al. 2017)."""

    implementation = "workers.methods.incorrect:PreventLabelLeaking"
    weight_perturbable = True

    name: Literal["prevent_label_leaking"] = "prevent_label_leaking"


@METHODS.register
class FgsmRandomStart(Method):
    """Fast single-step AT: one step of `step_factor` * eps from a random start (Wong et al. 2020, arXiv 2001.03994)."""

    implementation = "workers.methods.fgsm_rs:FgsmRandomStart"
    weight_perturbable = True

    name: Literal["fgsm_rs"] = "fgsm_rs"
    step_factor: Annotated[Number, Field(gt=0, le=2)] = 1.25
    """Length of the step relative to the training attack's eps."""


LABELLED = Selection(
    "method under unlabeled", METHODS, lambda cls: cls.weight_perturbable and not issubclass(cls, Unlabeled)
)
"""The methods that may train on pseudo-labelled images, too."""


@METHODS.register
class Unlabeled(Method):
    """Another method on labelled and pseudo-labelled images (`data.unlabeled`) together, a fixed share of each batch:
    robust self-training (RST: Carmon et al. 2019, arXiv 1905.13736; Stutz21).

    An epoch is one pass over the labelled images [ours]; the others are drawn without replacement, afresh each epoch.
    """

    implementation = "workers.methods.unlabeled:Unlabeled"
    weight_perturbable = True

    name: Literal["unlabeled"] = "unlabeled"
    over: Annotated[Method, LABELLED] = AdversarialTraining()
    """The method whose attack and loss are used."""
    fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """Share of each batch that is pseudo-labelled, rounded to whole images (Stutz21: 0.7, Carmon et al.: 0.5)."""
    labels: Literal["teacher", "file"] = "teacher"
    """`teacher`: a network that flatsweep trains first, as a trial of its own that all seeds share: method `standard`
    without regularisers, with the same data, model and training. `file`: the `y` in the file of `data.unlabeled`."""
    teacher_seed: Annotated[Integer, Field(ge=0, lt=2**63)] = 0
    """Seed of the teacher."""


@METHODS.register
class Free(Method):
    """Free AT: m steps on each batch, whose gradients also move the examples (Shafahi et al. 2019, arXiv 1904.12843).

    m replays in each of E epochs cost m * E passes over the data: the paper divides the epochs by m, so that training
    costs what it costs on clean images. Of the training attack only norm and eps apply: every step has the length eps.
    """

    implementation = "workers.methods.free:Free"
    weight_perturbable = True

    name: Literal["free"] = "free"
    replays: Annotated[Integer, Field(ge=1, le=1_000)] = 8
    """m: steps on each batch, one after the other (8 in the authors' code for CIFAR)."""


@METHODS.register
class RandomWeightPerturbation(Method):
    """Another method's gradient taken at w + nu, nu random of relative length xi in every tensor (Stutz21)."""

    implementation = "workers.methods.random_weight_perturbation:RandomWeightPerturbation"

    name: Literal["random_weight_perturbation"] = "random_weight_perturbation"
    over: Annotated[Method, WEIGHT_PERTURBABLE] = Field(AdversarialTraining(), validate_default=True)
    """The method whose loss is used."""
    xi: Annotated[Number, Field(gt=0)] = 0.05
    """Radius relative to each tensor's norm (swept over .05 to 1 in Stutz21)."""


@METHODS.register
class AdversarialWeightPerturbation(Method):
    """AWP over another method: its gradient is taken at weights perturbed adversarially, layer by layer (Wu20)."""

    implementation = "workers.methods.awp:AdversarialWeightPerturbation"

    name: Literal["awp"] = "awp"
    over: Annotated[Method, WEIGHT_PERTURBABLE] = Field(AdversarialTraining(), validate_default=True)
    """The method whose loss is used."""
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.01
    """Radius of the perturbation relative to each tensor's norm. Left out: 0.005 over TRADES, else 0.01 (Wu20)."""
    warmup: Annotated[Integer, Field(ge=0)] = 0
    """Epochs without perturbation at the start. Left out: 10 over TRADES, else 0 (Wu20's scripts)."""
    ramp: Annotated[Integer, Field(ge=0)] = added_field(0)
    """r: epochs after the warm-up in which the radius grows by gamma / (r + 1) each, the first one too [ours]."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(over := data.get("over"), str | dict | Trades):
            name = over if isinstance(over, str) else over.get("name") if isinstance(over, dict) else over.name
            if name == "trades":
                return {"gamma": 0.005, "warmup": 10} | data
        return data

    def label(self) -> str:
        """`awp(over, gamma=...)`: gamma is always shown."""
        epochs = "".join(f", {key}={value}" for key in ("warmup", "ramp") if (value := getattr(self, key)))
        return f"awp({self.over.label()}, gamma={self.gamma:g}{epochs})"
