"""The regularisers (SCIENCE.md section 4). Each composes with each method; several compose as a list."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Component, Number, Registry


class Regularizer(Component):
    """Base of the regularisers."""


REGULARIZERS = Registry("regularizer", Regularizer)


@REGULARIZERS.register
class WeightDecay(Regularizer):
    """Another L2 penalty than the optimizer's own."""

    implementation = "workers.regularizers.weight_decay:WeightDecay"

    name: Literal["weight_decay"] = "weight_decay"
    value: Annotated[Number, Field(ge=0)]
    """The penalty's factor, instead of the optimizer's (Stutz21 sweeps 0, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2)."""


@REGULARIZERS.register
class LabelSmoothing(Regularizer):
    """Targets (1 - t) * onehot + t / C (Stutz21: t in .01 ... .5)."""

    implementation = "workers.regularizers.labels:LabelSmoothing"

    name: Literal["label_smoothing"] = "label_smoothing"
    amount: Annotated[Number, Field(ge=0, le=1)]
    """t: the probability mass that is spread over all C classes, in [0, 1]."""


@REGULARIZERS.register
class LabelNoise(Regularizer):
    """With probability t a label uniform over ALL C classes, drawn afresh for each batch (Stutz21: t in .05 ... .5)."""

    implementation = "workers.regularizers.labels:LabelNoise"

    name: Literal["label_noise"] = "label_noise"
    rate: Annotated[Number, Field(ge=0, le=1)]
    """t: the probability that a label is redrawn, in [0, 1]."""


@REGULARIZERS.register
class WeightClipping(Regularizer):
    """Every parameter is clipped to [-c, c] after each step (Stutz21: c in .005, .01, .015, .02)."""

    implementation = "workers.regularizers.weight_clipping:WeightClipping"

    name: Literal["weight_clipping"] = "weight_clipping"
    bound: Annotated[Number, Field(gt=0)]
    """c: the largest absolute value a weight may have."""
