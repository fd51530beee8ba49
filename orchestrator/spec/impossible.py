"""Combinations that cannot be trained, found before anything starts. Each is one reason at one place of a trial."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

if TYPE_CHECKING:
    from orchestrator.spec.sweep import Trial

Place = tuple[str | int, ...]
"""Inside a trial: `("training", "early_stopping")`."""


def reasons(trial: "Trial") -> Iterator[tuple[Place, str]]:
    """Everything that keeps a trial from being trained."""
    yield from _early_stopping(trial)
    yield from _unlabeled(trial)


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
            place = found.get("ctx", {}).get("place", found["loc"])
            yield ("training", "early_stopping", "attack", *place), found["msg"]


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
