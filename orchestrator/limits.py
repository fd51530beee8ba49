"""What a driver may take of a cluster and of time: said on the command line, as it is about this submit alone."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import UserError

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """Limits of one submit.

    Raises:
        UserError: hours that are no positive number.
    """

    max_concurrent: int | None = None
    """Trials at once at most, instead of `resources.max_concurrent`."""
    max_hours: float | None = None
    """Wall-clock hours after which the driver stops, everything saved."""
    priority: int = 0
    """Among the sweeps on a cluster: a larger number goes first."""

    def __post_init__(self) -> None:
        if self.max_hours is not None and not 0 < self.max_hours < math.inf:
            raise UserError(f"--max-hours {self.max_hours:g}: expected hours above 0, such as 7.5")


class Budget:
    """Wall-clock time that a driver may take, counted from here.

    Args:
        hours: None for as long as it takes.
        clock: seconds that never go back.
    """

    def __init__(self, hours: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.hours, self._clock = hours, clock
        self._until = math.inf if hours is None else clock() + hours * SECONDS_PER_HOUR

    @property
    def used_up(self) -> bool:
        """Whether the time is over."""
        return self._clock() >= self._until
