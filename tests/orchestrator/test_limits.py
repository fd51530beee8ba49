"""The time that a driver is given."""

import math

import pytest

from orchestrator.errors import UserError
from orchestrator.limits import Budget, Limits


def test_time_counts_from_the_start() -> None:
    now = 1000.0
    budget = Budget(0.5, lambda: now)
    now = 1000 + 1799.9
    assert not budget.used_up
    now = 1000 + 1800
    assert budget.used_up


def test_no_limit() -> None:
    now = 0.0
    budget = Budget(None, lambda: now)
    now = 1e12
    assert not budget.used_up


@pytest.mark.parametrize("hours", [0.0, -1.0, math.nan, math.inf])
def test_hours_are_above_zero(hours: float) -> None:
    with pytest.raises(UserError, match="--max-hours"):
        Limits(max_hours=hours)
