"""Which of several sweeps on a cluster goes first. Ray knows no priorities: the lower one makes way by itself.

Each driver notes its priority in the cluster's own key-value store, and looks at what Ray itself keeps: the placement
groups of all drivers, one for each trial, placed or waiting. So nothing has to be kept up to date, and nothing is left
to clean up: the groups of a driver that died are gone, and with them its claim.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.placement import Amounts, fits, nodes

logger = logging.getLogger(__name__)

NAMESPACE = b"flatsweep"
PREFIX = b"priority/"
LOOK_SECONDS = 2.0
"""Between two looks at the cluster."""
JOB_DIGITS = 8
"""The last hex digits of a placement group's id are its driver's job id."""
WAITS = frozenset({"PENDING", "RESCHEDULING"})


@dataclass(frozen=True)
class Claim:
    """A trial of a sweep with higher priority that waits for a node."""

    group: str
    """Id of its placement group."""
    sweep: str
    priority: int
    wants: tuple[tuple[str, float], ...]


def claims(groups: Mapping[str, Mapping[str, Any]], others: Mapping[str, tuple[int, str]], above: int) -> list[Claim]:
    """The waiting trials of all sweeps above a priority.

    Args:
        groups: Ray's table of placement groups.
        others: priority and name of the sweep of each driver, by job id.
        above: the priority of one's own sweep.
    """
    found = []
    for group_id, group in groups.items():
        priority, sweep = others.get(group_id[-JOB_DIGITS:], (above, ""))
        if priority > above and group["state"] in WAITS:
            wants = tuple(amount for bundle in group["bundles"].values() for amount in bundle.items())
            found.append(Claim(group_id, sweep, priority, wants))
    return found


def standing_in_the_way(found: Iterable[Claim], wants: Amounts, have: Iterable[Amounts]) -> list[Claim]:
    """Those of the claims to which a trial that `wants` so much could be in the way: some node could hold either."""
    contested = [node for node in have if fits(wants, node)]
    return [claim for claim in found if any(fits(dict(claim.wants), node) for node in contested)]


class Turn:
    """Whether it is this sweep's turn to use the cluster.

    Args:
        sweep: its name.
        priority: a larger number goes first.
        wants: what a trial takes of one node.
        clock: seconds that never go back.
    """

    def __init__(self, sweep: str, priority: int, wants: Amounts, clock: Callable[[], float] = time.monotonic) -> None:
        import ray
        from ray.experimental.internal_kv import _internal_kv_put

        self._priority, self._wants, self._clock = priority, wants, clock
        self._job = str(ray.get_runtime_context().get_job_id())
        self._claims: list[Claim] = []
        self._looked = -LOOK_SECONDS
        self.lost_to: Claim | None = None
        """What the sweep makes way for, until its next turn."""
        # a job's id is never given to another one, so that the note may stay
        _internal_kv_put(PREFIX + f"{self._job}/{priority}/{sweep}".encode(), b"", namespace=NAMESPACE)

    def contested_by(self) -> Claim | None:
        """A trial of a higher sweep that waits for what this one could take; None: it is this one's turn."""
        self._look()
        claim = next(iter(self._claims), None)
        if claim is None:
            self.lost_to = None
        return claim

    def is_over(self) -> bool:
        """Whether this sweep is to make way, once and for all of this turn.

        A trial counts that waited in two looks already: Ray places what fits within that time.
        """
        before = {claim.group for claim in self._claims}
        if self.lost_to is None and self._look():
            self.lost_to = next((claim for claim in self._claims if claim.group in before), None)
        return self.lost_to is not None

    def _look(self) -> bool:
        """Looks at the cluster, if it is time to."""
        if self._clock() - self._looked < LOOK_SECONDS:
            return False
        from ray.exceptions import RayError

        self._looked = self._clock()
        try:
            self._claims = self._seen()
        except RayError as error:  # the cluster's head does not answer just now: no reason to end the sweep
            logger.warning("cannot see which sweeps wait on the cluster: %s", error)
            return False
        return True

    def _seen(self) -> list[Claim]:
        from ray.util import placement_group_table

        others = self._others()
        if all(priority <= self._priority for priority, _ in others.values()):
            return []
        found = claims(placement_group_table(), others, self._priority)
        return standing_in_the_way(found, self._wants, nodes()) if found else []

    def _others(self) -> dict[str, tuple[int, str]]:
        from ray.experimental.internal_kv import _internal_kv_list

        notes = [key.removeprefix(PREFIX).decode() for key in _internal_kv_list(PREFIX, namespace=NAMESPACE)]
        parts = [note.split("/", 2) for note in notes]
        return {job: (int(priority), sweep) for job, priority, sweep in parts if job != self._job}
