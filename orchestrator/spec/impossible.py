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
