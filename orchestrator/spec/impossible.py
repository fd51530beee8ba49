"""Combinations that cannot be trained, found before anything starts. Each is one reason at one place of a trial."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.spec.base import place_of
from orchestrator.spec.methods import AdversarialWeightPerturbation, layers
from orchestrator.spec.regularizers import Activation, Cutout

if TYPE_CHECKING:
    from orchestrator.spec.sweep import Trial

Place = tuple[str | int, ...]
"""Inside a trial: `("training", "early_stopping")`."""


def reasons(trial: "Trial") -> Iterator[tuple[Place, str]]:
    """Everything that keeps a trial from being trained."""
    yield from _network(trial)
    yield from _method(trial)
    yield from _regularizers(trial)
    yield from _early_stopping(trial)
    yield from _unlabeled(trial)


def _network(trial: "Trial") -> Iterator[tuple[Place, str]]:
    side = trial.data.side
    if side is not None and (misfit := trial.model.misfit(side, side)):
        yield ("model",), f"{misfit} as in {trial.data.name}"


def _method(trial: "Trial") -> Iterator[tuple[Place, str]]:
    for method in layers(trial.method):
        if isinstance(method, AdversarialWeightPerturbation) and method.warmup >= trial.training.epochs:
            yield (
                ("method",),
                f"awp with a warm-up of {method.warmup} epochs never perturbs in a training of {trial.training.epochs}",
            )


def _regularizers(trial: "Trial") -> Iterator[tuple[Place, str]]:
    side = trial.data.side
    for index, regularizer in enumerate(trial.regularizers):
        if isinstance(regularizer, Activation) and not trial.model.has_relu:
            yield ("regularizers", index), f"activation replaces ReLUs, and {trial.model.name} has none"
        if isinstance(regularizer, Cutout) and side is not None and regularizer.size > side:
            yield (
                ("regularizers", index),
                f"a cutout of {regularizer.size} pixels is larger than the images of {trial.data.name}, "
                f"{side} x {side}: give size",
            )


def _early_stopping(trial: "Trial") -> Iterator[tuple[Place, str]]:
    stopping = trial.training.early_stopping
    if stopping is None:
        return
    if trial.data.validation_size == 0:
        yield (
            ("training", "early_stopping"),
            "early stopping looks at validation images, and there are none: give data.validation_size",
        )
    try:
        stopping.attack.resolve(trial.training.attack)
    except ValidationError as error:
        for found in error.errors():
            yield ("training", "early_stopping", "attack", *place_of(found)), found["msg"]


def _unlabeled(trial: "Trial") -> Iterator[tuple[Place, str]]:
    method, images = trial.unlabeled, trial.data.unlabeled
    if method is None:
        return
    if images is None:
        yield ("method",), "it needs images without labels: give data.unlabeled"
    elif method.labels == "file" and images.path is None:
        yield ("method", "labels"), "pseudo-labels from a file, but data.unlabeled has no path"
    size = trial.training.batch_size
    if not 1 <= round(method.fraction * size) <= size - 1:
        yield (
            ("method", "fraction"),
            f"{method.fraction:g} of a batch of {size} leaves no image of one kind: change it, or training.batch_size",
        )
