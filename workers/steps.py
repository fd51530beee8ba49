"""Work that can be watched and stopped between its steps: a generator of ticks that returns the result.

A trial advances such work a little at a time; a notebook calls it like a plain function.
"""

import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Tick:
    """`done` of `total` units of the work are finished."""

    done: int
    total: int


Steps = Generator[Tick, None, R]


class Stepwise(Generic[P, R]):
    """A generator function that can be called for its result, `measure(...)`, or stepped, `yield from m.steps(...)`."""

    def __init__(self, function: Callable[P, Steps[R]]) -> None:
        functools.update_wrapper(self, function)
        self.steps = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs to the end and returns the result."""
        return drain(self.steps(*args, **kwargs))


def drain(steps: Generator[object, None, R]) -> R:
    """The result of a generator, its ticks thrown away."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: R = stop.value
            return result


stepwise = Stepwise
"""Decorator."""
