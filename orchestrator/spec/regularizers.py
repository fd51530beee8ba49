"""The regularisers (SCIENCE.md section 4). Each composes with each method; several compose as a list."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Component, Integer, Number, Registry


class Regularizer(Component):
    """Base of the regularisers."""


REGULARIZERS = Registry("regularizer", Regularizer, "regularizers")


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


@REGULARIZERS.register
class AutoAugment(Regularizer):
    """AutoAugment's CIFAR-10 policy (Cubuk et al. 2019, arXiv 1805.09501), one sub-policy per image."""

    implementation = "workers.regularizers.autoaugment:AutoAugment"

    name: Literal["autoaugment"] = "autoaugment"


@REGULARIZERS.register
class Cutout(Regularizer):
    """A square around a random pixel is painted over (DeVries & Taylor 2017, arXiv 1708.04552)."""

    implementation = "workers.regularizers.images:Cutout"

    name: Literal["cutout"] = "cutout"
    size: Annotated[Integer, Field(ge=1)] = 16
    """Side of the square in pixels; the part beyond the border is lost."""
    fill: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Grey value painted, in [0, 1]."""


@REGULARIZERS.register
class Mixup(Regularizer):
    """Convex combinations of pairs of images and labels (Zhang et al. 2018, arXiv 1710.09412)."""

    implementation = "workers.regularizers.images:Mixup"

    name: Literal["mixup"] = "mixup"
    alpha: Annotated[Number, Field(gt=0)] = 1.0
    """Both parameters of the Beta distribution of the mixing weight, drawn once per batch."""


@REGULARIZERS.register
class Cutmix(Regularizer):
    """A random rectangle of each image comes from another one (Yun et al. 2019, arXiv 1905.04899)."""

    implementation = "workers.regularizers.images:Cutmix"

    name: Literal["cutmix"] = "cutmix"
    alpha: Annotated[Number, Field(gt=0)] = 1.0
    """Both parameters of the Beta distribution of the share that stays, drawn once per batch."""


@REGULARIZERS.register
class EntropySgd(Regularizer):
    """Entropy-SGD: steps towards the mean of a short Langevin walk (Chaudhari et al. 2017, arXiv 1611.01838).

    The walk takes one batch per step; after `steps` of them the optimizer takes one, with the way from the mean back to
    where the walk began as gradient. So an epoch costs what it always costs, and 150 epochs here have as many steps of
    the optimizer as Stutz21's 150 / L. Defaults but L are those of the authors' PyTorch code (github.com/ucla-vision/
    entropy-sgd), which Stutz21 used; gamma stays as it is, because that code never counts the steps it would grow by.
    """

    implementation = "workers.regularizers.entropy_sgd:EntropySgd"

    name: Literal["entropy_sgd"] = "entropy_sgd"
    steps: Annotated[Integer, Field(ge=1, le=10_000)] = 1
    """L: steps of the walk for each step of the optimizer (1 in Stutz21's main table, swept over 1, 2, 3, 5)."""
    gamma: Annotated[Number, Field(ge=0)] = 1e-4
    """Scope: how strongly the walk is pulled back to where it began."""
    noise: Annotated[Number, Field(ge=0)] = 1e-4
    """Standard deviation of the walk's noise per weight and step is noise * sqrt(2 * inner_lr)."""
    alpha: Annotated[Number, Field(ge=0, lt=1)] = 0.75
    """Share of the mean so far when the next iterate w' enters it: mean <- alpha * mean + (1 - alpha) * w'."""
    inner_lr: Annotated[Number, Field(gt=0)] = 0.1
    """Learning rate of the walk."""
    inner_momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Nesterov's momentum in the walk, from rest each time (the authors': 0.9; what Stutz21's code passes is 0)."""
    inner_schedule: bool = False
    """Whether the schedule acts on inner_lr too (the authors' does not): then it counts twice in an outer step."""


# after entropy_sgd: at the end that one puts back its own weights, and then this one the average of them
@REGULARIZERS.register
class WeightAveraging(Regularizer):
    """The average of the weights is evaluated instead of the last ones, batch statistics re-estimated (Stutz21)."""

    implementation = "workers.regularizers.weight_averaging:WeightAveraging"

    name: Literal["weight_averaging"] = "weight_averaging"
    kind: Literal["ema", "swa"] = "ema"
    """`ema`: exponential, after each step; `swa`: plain, after each epoch (Izmailov et al. 2018, arXiv 1803.05407)."""
    decay: Annotated[Number, Field(gt=0, lt=1)] = 0.9975
    """Decay of `ema` per step (swept over .98, .985, .99, .9975 in Stutz21)."""
    start: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the training after which averaging begins."""


@REGULARIZERS.register
class Dropout(Regularizer):
    """Dropout of the penultimate features (Srivastava et al. 2014); active in training steps, not in attacks."""

    implementation = "workers.regularizers.networks:Dropout"

    name: Literal["dropout"] = "dropout"
    rate: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Probability that a feature is set to zero."""


@REGULARIZERS.register
class Activation(Regularizer):
    """Another activation function in place of every ReLU (Stutz21)."""

    implementation = "workers.regularizers.networks:Activation"

    name: Literal["activation"] = "activation"
    kind: Literal["silu", "mish", "gelu", "softplus", "leaky_relu", "tanh"]
    """The function."""


@REGULARIZERS.register
class Sam(Regularizer):
    """Sharpness-aware minimisation: the gradient at w + rho * g / ||g|| (Foret et al. 2021, arXiv 2010.01412)."""

    implementation = "workers.regularizers.sam:Sam"

    name: Literal["sam"] = "sam"
    rho: Annotated[Number, Field(gt=0)] = 0.05
    """Euclidean length of the perturbation of all weights together."""


@REGULARIZERS.register
class Asam(Regularizer):
    """Adaptive SAM: the perturbation scales with each weight's size (Kwon et al. 2021, arXiv 2102.11600)."""

    implementation = "workers.regularizers.sam:Asam"

    name: Literal["asam"] = "asam"
    rho: Annotated[Number, Field(gt=0)] = 0.5
    """Length of the perturbation in units of the weights."""
    eta: Annotated[Number, Field(ge=0)] = 0.01
    """Added to each weight's size."""


@REGULARIZERS.register
class InputGradient(Regularizer):
    """Penalty weight * mean ||grad_x CE(f(x), y)||^2 at clean images (Ross & Doshi-Velez 2018, arXiv 1711.09404)."""

    implementation = "workers.regularizers.input_gradient:InputGradient"

    name: Literal["input_gradient"] = "input_gradient"
    weight: Annotated[Number, Field(gt=0)] = 0.01
    """Factor of the penalty; pixels in [0, 1], loss in nats."""
