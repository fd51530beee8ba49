"""How a network is trained: attack, optimizer, schedule. Defaults: the base recipe of SCIENCE.md section 2."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Component, Integer, Number, Registry, Spec, problem

Norm = Literal["linf", "l2"]


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise problem(
                f"eps {self.eps:g} is out of range: at most 1 for linf, as pixels lie in [0, 1] (8/255, not 8)", "eps"
            )
        if self.restarts > 1 and not self.random_start:
            raise problem("restarts without random_start would all be the same", "restarts")
        return self


class EvaluationAttack(Spec):
    """PGD for measuring; norm and eps are those of training unless given."""

    norm: Norm | None = None
    """Norm of the ball; that of the training attack if left out."""
    eps: Annotated[Number, Field(gt=0)] | None = None
    """Radius in units of the pixel range [0, 1]; that of the training attack if left out."""
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

    def resolve(self, training: Attack) -> Attack:
        """The complete attack, with norm and eps taken from the training attack where they were left out."""
        own = self.model_dump(exclude={"norm", "eps"})
        return Attack(norm=self.norm or training.norm, eps=training.eps if self.eps is None else self.eps, **own)


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


class Schedule(Component):
    """Base of the learning-rate schedules: the factor on the optimizer's lr in an epoch."""

    def factor(self, epoch: int, epochs: int) -> float:
        """Factor on the learning rate in `epoch` (from 0) of `epochs`."""
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

    def factor(self, epoch: int, epochs: int) -> float:  # noqa: ARG002  (other schedules need the length)
        """`gamma` to the number of milestones reached."""
        return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))


@SCHEDULES.register
class Constant(Schedule):
    """The learning rate stays as it is."""

    implementation = "orchestrator.spec.training:Constant"

    name: Literal["constant"] = "constant"

    def factor(self, epoch: int, epochs: int) -> float:  # noqa: ARG002  (other schedules need them)
        """Always 1."""
        return 1.0


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
    attack: Attack = Attack()
    """The attack that adversarial training runs on every batch, in eval mode."""
