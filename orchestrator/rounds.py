"""Runs trials on the cluster for as long as it is their sweep's turn, and again when it is."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rich.console import Console

from orchestrator.plan import Entry
from orchestrator.priority import Turn

WAIT_SECONDS = 0.5
ENDS = frozenset({"finished", "failed"})
"""States of a trial's last result that it does not go on from."""


class Stop(Protocol):
    """Whether the user, or the time, asks for the end."""

    @property
    def requested(self) -> bool:
        """Whether to end."""

    @property
    def cancelled(self) -> frozenset[str]:
        """Ids of trials that are to end, whatever becomes of the others."""


def run_in_rounds(
    entries: Sequence[Entry],
    run: Callable[[Sequence[Entry]], Sequence[Any]],
    turn: Turn,
    stop: Stop,
    console: Console,
) -> tuple[set[str], list[Entry]]:
    """Runs all entries; those that a round left unfinished as it made way for another sweep run in the next one.

    Args:
        entries: what to run.
        run: a round; returns Ray Tune's result of each entry that it took up, in their order.
        turn: whether it is the sweep's turn.
        stop: ends it all.
        console: where it says that it waits.

    Returns:
        Ids of the trials whose worker was lost too often; what is left where it was stopped.
    """
    left, lost = list(entries), set[str]()
    while left and not stop.requested and _has_turn(turn, stop, console):
        results = list(zip(left, run(left), strict=False))
        lost |= {entry.trial_id for entry, result in results if result.error}
        through = lost | {entry.trial_id for entry, result in results if (result.metrics or {}).get("state") in ENDS}
        left = [entry for entry in left if entry.trial_id not in through | stop.cancelled]
        if turn.lost_to is None:
            break
    return lost, left


def _has_turn(turn: Turn, stop: Stop, console: Console) -> bool:
    """Waits until it is the sweep's turn; False where it is stopped meanwhile."""
    said = False
    while (claim := turn.contested_by()) is not None:
        if stop.requested:
            return False
        if not said:
            _say(console, f"waiting    until sweep '{claim.sweep}' (priority {claim.priority}) has what it waits for")
            said = True
        time.sleep(WAIT_SECONDS)
    if said:
        _say(console, "going on   no sweep of a higher priority waits")
    return True


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
