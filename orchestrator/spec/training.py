"""How a network is trained: attack, optimizer, schedule. Defaults: the base recipe of SCIENCE.md section 2."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from orchestrator.spec.base import Component, Integer, Number, Registry, Spec, added_field, location, problem

Norm = Literal["linf", "l2"]
Precision = Literal["fp32", "bf16"]
_EVERY = re.compile(r"every ([1-9][0-9]{0,5})")


class Attack(Spec):
    """Projected gradient descent (PGD) inside a ball around each image, cut with the box [0, 1]."""

    norm: Norm = "linf"
    """Norm of the ball."""
    eps: Annotated[Number, Field(gt=0)] = 8 / 255
    """Radius of the ball, in units of the pixel range [0, 1]; at most 1 for linf."""
    step_size: Annotated[Number, Field(gt=0)] = 0.007
    """Length of a step, in the same units."""
    steps: Annotated[Integer, Field(ge=1, le=10_000)] = 7
    """Gradient steps per restart."""
    restarts: Annotated[Integer, Field(ge=1, le=1_000)] = 1
    """Independent starts; per example the one with the highest loss is kept."""
    random_start: bool = True
    """Start at a uniformly random point of the ball instead of at the image."""
    best_iterate: bool = True
    """Keep the iterate with the highest loss (Stutz21) instead of the last one (Wu20)."""
    precision: Precision = added_field("fp32")
    """Of convolutions and matrix products behind the gradients that the attack follows. With `bf16` the training loss,
    at the images that it finds, stays in single precision, unless `training.precision` says `bf16` for both. Method
    `free` has no gradients but those of the training loss."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise problem(
                f"eps {self.eps:g} is out of range: at most 1 for linf, as pixels lie in [0, 1] (8/255, not 8)", "eps"
            )
        if self.restarts > 1 and not self.random_start:
            raise problem("restarts without random_start would all be the same", "restarts")
        return self


class Ball(Spec):
    """Where a measure's attack looks: norm and eps are those of training unless given."""

    norm: Norm | None = None
    """Norm of the ball; that of the training attack if left out."""
    eps: Annotated[Number, Field(gt=0)] | None = None
    """Radius in units of the pixel range [0, 1]; that of the training attack if left out."""

    def resolve(self, training: Attack) -> Attack:
        """The complete attack, with norm and eps taken from the training attack where they were left out."""
        own = self.model_dump(exclude={"norm", "eps"})
        return Attack(norm=self.norm or training.norm, eps=training.eps if self.eps is None else self.eps, **own)


class EvaluationAttack(Ball):
    """PGD for measuring; norm and eps are those of training unless given."""

    step_size: Annotated[Number, Field(gt=0)] = 0.007
    """Length of a step, in units of the pixel range."""
    steps: Annotated[Integer, Field(ge=1, le=10_000)] = 20
    """Gradient steps per restart."""
    restarts: Annotated[Integer, Field(ge=1, le=1_000)] = 1
    """Independent starts; per example the one with the highest loss is kept."""
    random_start: bool = True
    """Start at a uniformly random point of the ball."""
    best_iterate: bool = True
    """Keep the iterate with the highest loss instead of the last one."""
    precision: Precision = added_field("fp32")
    """Of convolutions and matrix products behind the gradients that the attack follows. What is found is looked at in
    single precision always, so that with `bf16` no value is rounded; but it is another attack, a little weaker, and
    faster where the hardware has bfloat16 (docs/measures.md)."""


class EarlyStopping(Spec):
    """The epoch with the smallest robust error on the validation images, never on test images.

    Training goes on to its last epoch all the same: both networks, `best` and `last`, are measured. Of epochs with the
    same robust error the one with the smaller robust loss is the best [ours].
    """

    every: Annotated[Integer, Field(ge=1)] = 1
    """Epochs from one look at the validation images to the next; the last epoch is always looked at."""
    examples: Annotated[Integer, Field(ge=1)] = 1000
    """First so many validation images (fewer if there are fewer)."""
    attack: EvaluationAttack = EvaluationAttack(steps=10)
    """The attack on them; PGD-10 by default."""


class Optimizer(Component):
    """Base of the optimizers."""

    lr: Annotated[Number, Field(gt=0)]
    weight_decay: Annotated[Number, Field(ge=0)]


OPTIMIZERS = Registry("optimizer", Optimizer)


@OPTIMIZERS.register
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum."""

    implementation = "torch.optim:SGD"

    name: Literal["sgd"] = "sgd"
    lr: Annotated[Number, Field(gt=0)] = 0.05
    """Learning rate at the start."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum factor, in [0, 1)."""
    nesterov: bool = True
    """Nesterov's momentum; needs momentum > 0."""
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    """L2 penalty's factor on every parameter; the regularizer `weight_decay` overrides it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise problem(
                "nesterov needs momentum > 0", "nesterov" if "nesterov" in self.model_fields_set else "momentum"
            )
        return self


@OPTIMIZERS.register
class Adam(Optimizer):
    """Adam with L2 penalty (Kingma & Ba 2015, arXiv 1412.6980)."""

    implementation = "torch.optim:Adam"

    name: Literal["adam"] = "adam"
    lr: Annotated[Number, Field(gt=0)] = 1e-3
    """Learning rate at the start."""
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    """L2 penalty's factor on every parameter; the regularizer `weight_decay` overrides it."""


@OPTIMIZERS.register
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    implementation = "torch.optim:AdamW"

    name: Literal["adamw"] = "adamw"
    lr: Annotated[Number, Field(gt=0)] = 1e-3
    """Learning rate at the start."""
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.01
    """Share of each weight that is taken off per step, times lr; the regularizer `weight_decay` overrides it."""


class Schedule(Component):
    """Base of the learning-rate schedules: the factor on the optimizer's lr at a moment of training."""

    def factor(self, epoch: float, epochs: int) -> float:
        """Factor on the learning rate after `epoch` epochs (2.5: in the middle of the third) of `epochs`."""
        raise NotImplementedError


SCHEDULES = Registry("schedule", Schedule)


@SCHEDULES.register
class Multistep(Schedule):
    """The learning rate is multiplied by `gamma` at each milestone."""

    implementation = "orchestrator.spec.training:Multistep"

    name: Literal["multistep"] = "multistep"
    milestones: tuple[Annotated[Integer, Field(ge=0)], ...] = (60, 90, 120)
    """Epochs (from 0) from whose start the next factor applies."""
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """Factor at each milestone."""

    def factor(self, epoch: float, epochs: int) -> float:  # noqa: ARG002  (other schedules need the length)
        """`gamma` to the number of milestones reached."""
        return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))


@SCHEDULES.register
class Constant(Schedule):
    """The learning rate stays as it is."""

    implementation = "orchestrator.spec.training:Constant"

    name: Literal["constant"] = "constant"

    def factor(self, epoch: float, epochs: int) -> float:  # noqa: ARG002  (other schedules need them)
        """Always 1."""
        return 1.0


@SCHEDULES.register
class Cosine(Schedule):
    """The rate falls along half a cosine from lr to `end` * lr (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    implementation = "orchestrator.spec.training:Cosine"

    name: Literal["cosine"] = "cosine"
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Factor at the end of training."""

    def factor(self, epoch: float, epochs: int) -> float:
        """1 at the start, `end` at the end."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


@SCHEDULES.register
class Cyclic(Schedule):
    """The learning rate rises from 0 to lr and falls to 0 again in straight lines (Stutz21: peak .2, 30 epochs)."""

    implementation = "orchestrator.spec.training:Cyclic"

    name: Literal["cyclic"] = "cyclic"
    period: Annotated[Number, Field(gt=0)] | None = None
    """Epochs of one triangle; the whole training if left out."""
    peak: Annotated[Number, Field(gt=0, lt=1)] = 0.4
    """Where in the triangle the learning rate is highest (FastAT, Rice et al. 2020: 0.4)."""

    def factor(self, epoch: float, epochs: int) -> float:
        """0 at a triangle's ends, 1 at its peak."""
        period = self.period or epochs
        place = (epoch % period) / period if epoch < epochs else 1.0
        return place / self.peak if place < self.peak else (1 - place) / (1 - self.peak)


def every_of(keep: str) -> int | None:
    """K of `every K`, and 1 for `all`; None for what keeps no networks of single epochs."""
    if keep == "all":
        return 1
    match = _EVERY.fullmatch(keep)
    return int(match[1]) if match else None


def _readable_keep(keep: str) -> str:
    if keep not in {"last", "best", "all"} and every_of(keep) is None:
        raise ValueError("expected 'last', 'best', 'all' or 'every K' with a whole number, such as 'every 10'")
    return keep


class Training(Spec):
    """Everything about training that all methods share."""

    epochs: Annotated[Integer, Field(ge=1, le=100_000)] = 150
    """Passes over the training images."""
    batch_size: Annotated[Integer, Field(ge=1, le=65_536)] = 128
    """Images in a batch; the last batch of an epoch may be smaller."""
    optimizer: Annotated[Optimizer, OPTIMIZERS] = Sgd()
    """Optimizer, by name."""
    schedule: Annotated[Schedule, SCHEDULES] = Multistep()
    """Learning-rate schedule, by name."""
    clip_gradient: Annotated[Number, Field(gt=0)] | None = added_field(None)
    """Largest Euclidean norm of the whole gradient; a longer one is shortened to it. Left out: no clipping."""
    precision: Precision = added_field("fp32")
    """Of convolutions and matrix products in the attack and in the loss of training. `bf16`: automatic mixed precision
    with bfloat16; weights, their gradients and logits stay in single precision, and so does all that is measured. Other
    weights come out, so it is part of a trial's identity. Fast where the hardware has bfloat16: GPUs since 2020, and
    CPUs with AVX512_BF16 or AMX; on others slower than `fp32`."""
    compile: bool = location(False)
    """Compile the network for training and for its attack (torch.compile); takes about a minute at a trial's start. No
    part of a trial's identity, but sums are rounded differently: give all trials of a study the same. Where it fails,
    a trial goes on without it and says so."""
    attack: Attack = Attack()
    """The attack that adversarial training runs on every batch, in eval mode."""
    early_stopping: EarlyStopping | None = added_field(None)
    """Also keep and measure the network of the best epoch on the validation images. Left out: the last one only."""
    keep_every: Annotated[Integer, Field(ge=1)] | None = location(None)
    """Also keep the network of every so many epochs, for curves over training (`evaluation.checkpoints: [kept]`);
    no part of a trial's identity. Left out: none."""
    keep: Annotated[str, AfterValidator(_readable_keep)] | None = location(None)
    """What stays of a trial that is trained and measured: `last`, its last checkpoint; `best`, also the early-stopped
    network; `every K`, also those of epochs K, 2K, ...; `all`, those of every epoch. No part of a trial's identity.
    Left out: what `early_stopping` and `keep_every` keep, and the checkpoint before the last."""

    checkpoint_minutes: Annotated[Number, Field(gt=0)] | None = location(None)
    """Also save a checkpoint within an epoch once so many minutes have passed since the last one: no more of a long
    epoch is trained again after a loss. No part of a trial's identity. Left out: when an epoch ends or the trial stops.
    """

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> Self:
        if self.keep == "best" and self.early_stopping is None:
            raise problem("'best' needs training.early_stopping, which chooses the best epoch", "keep")
        if self.keep_every is not None and every_of(self.keep or "") is not None:
            raise problem(f"'{self.keep}' says which epochs are kept, and so does keep_every: leave one out", "keep")
        return self

    @property
    def kept_epochs(self) -> range:
        """The epochs before the last one whose networks are kept while it trains, counted from 1."""
        every = self.keep_every or every_of(self.keep or "")
        return range(every or self.epochs, self.epochs, every or 1)
