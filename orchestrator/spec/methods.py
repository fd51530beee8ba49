"""The training methods (SCIENCE.md section 3): names, parameters, ranges, sources. Code: workers/methods."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.base import Component, Integer, Number, Registry


class Method(Component):
    """Base of the training methods."""


METHODS = Registry("method", Method)
WEIGHT_PERTURBABLE = Registry("method under awp", Method)
"""The methods whose loss adversarial weight perturbation can wrap."""


@METHODS.register
class Standard(Method):
    """Training on clean images with cross-entropy."""

    implementation = "workers.methods.standard:Standard"

    name: Literal["standard"] = "standard"


@METHODS.register
@WEIGHT_PERTURBABLE.register
class AdversarialTraining(Method):
    """Adversarial training: cross-entropy at PGD examples (Madry et al. 2018, arXiv 1706.06083)."""

    implementation = "workers.methods.adversarial:AdversarialTraining"

    name: Literal["at"] = "at"


@METHODS.register
@WEIGHT_PERTURBABLE.register
class Trades(Method):
    """TRADES: clean cross-entropy + beta * KL(p(x) || p(x_adv)) (Zhang et al. 2019, arXiv 1901.08573)."""

    implementation = "workers.methods.trades:Trades"

    name: Literal["trades"] = "trades"
    beta: Annotated[Number, Field(ge=0)] = 6.0
    """Weight of the KL term (swept over 1, 3, 6, 9 in Stutz21)."""


@METHODS.register
@WEIGHT_PERTURBABLE.register
class Mart(Method):
    """MART: boosted cross-entropy + beta * KL weighted by 1 - p_y(x) (Wang et al. 2020, ICLR)."""

    implementation = "workers.methods.mart:Mart"

    name: Literal["mart"] = "mart"
    beta: Annotated[Number, Field(ge=0)] = 5.0
    """Weight of the KL term (official default 5 to 6)."""


@METHODS.register
class AdversarialWeightPerturbation(Method):
    """AWP over another method: its gradient is taken at weights perturbed adversarially, layer by layer (Wu20)."""

    implementation = "workers.methods.awp:AdversarialWeightPerturbation"

    name: Literal["awp"] = "awp"
    over: Annotated[Method, WEIGHT_PERTURBABLE] = AdversarialTraining()
    """The method whose loss is used."""
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.01
    """Radius of the perturbation relative to each tensor's norm. Left out: 0.005 over TRADES, else 0.01 (Wu20)."""
    warmup: Annotated[Integer, Field(ge=0)] = 0
    """Epochs without perturbation at the start. Left out: 10 over TRADES, else 0 (Wu20's scripts)."""

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
        warmup = f", warmup={self.warmup}" if self.warmup else ""
        return f"awp({self.over.label()}, gamma={self.gamma:g}{warmup})"
