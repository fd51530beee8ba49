"""What a sweep waits for, in words: for a tracking store that takes no records, for a free place, for a teacher."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.sweep import Sweep
from workers.unsent import Unsent

STORE = "MLflow"


@dataclass(frozen=True)
class Queue:
    """Records of all trials together that the tracking store has not taken."""

    records: int
    trials: int
    seconds: float
    """For which the oldest has waited."""
    reason: str
    """What the last attempt to send ended with; "" where none has ended."""

    @classmethod
    def of(cls, waiting: Iterable[Unsent], now_ms: int) -> "Queue | None":
        """None where nothing waits."""
        return cls.joined((one.records, one.seconds(now_ms), one.reason) for one in waiting)

    @classmethod
    def joined(cls, parts: Iterable[tuple[int, float, str]]) -> "Queue | None":
        """Records, seconds and reason of each trial; None where no records wait."""
        found = [part for part in parts if part[0]]
        if not found:
            return None
        oldest = max(found, key=lambda part: part[1])
        reason = oldest[2] or next((part[2] for part in found if part[2]), "")
        return cls(sum(part[0] for part in found), len(found), oldest[1], reason)

    def sentence(self) -> str:
        """`MLflow unreachable for 45 s, 312 records of 2 trials queued: no route to host`."""
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        text = f"{STORE} unreachable for {short_duration(self.seconds)}, {self.records} records of {trials} queued"
        return f"{text}: {self.reason or 'no answer yet'}"


def trial_waits(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], unsent: Mapping[str, Unsent], alive: bool, now_ms: int
) -> dict[str, str]:
    """By trial id what a trial waits for; trials that wait for nothing, or for nobody but their user, are left out.

    Args:
        sweep: of the trials.
        rows: one for each trial, with its `trial_id` and `state`.
        unsent: what waits to be sent.
        alive: whether a driver is at work.
        now_ms: the time, in ms since 1970.
    """
    states = {str(row["trial_id"]): str(row["state"]) for row in rows}
    teachers = {trial.trial_id: trial.teacher.trial_id for trial in sweep.trials() if trial.teacher} if alive else {}
    found = {}
    for trial_id, state in states.items():
        if one := unsent.get(trial_id):
            found[trial_id] = f"{STORE}: {one.records} records, {short_duration(one.seconds(now_ms))}"
        elif state == "running" and not alive:
            found[trial_id] = "a driver: its own is gone"
        elif alive and state in {"pending", "interrupted", "missing"}:
            teacher = teachers.get(trial_id)
            found[trial_id] = f"a free place, or its teacher {teacher}" if teacher else "a free place"
    return found


def short_duration(seconds: float) -> str:
    """`45 s`, `3m20s`, `2h05m`.

    >>> short_duration(45.2), short_duration(200), short_duration(7500)
    ('45 s', '3m20s', '2h05m')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest} s"
