"""What became of the faults that happened: when the sweep was where it had been, and what was trained once more."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from chaos_acts import AGAIN, BETWEEN, DATA_CHANGED, SECOND
from chaos_faults import CLOCKS, DIES, FAILS, KINDS, OTHERS
from chaos_processes import read_lines
from chaos_server import ERRORS, HANGS, KILLED, LOCKED, LOST, SLOW

from workers.faults import LOG

KILLS_NOBODY = {ERRORS, HANGS, KILLED, LOCKED, LOST, SLOW, SECOND, *(kind.what for kind in CLOCKS)}
CLASSES = {"nan": "diverged", "inf": "diverged", "oom": "out_of_memory", "outside": "code_error"}
"""What wrong numbers are recorded as."""
COSTS_NOTHING = {*KILLS_NOBODY, *BETWEEN} - {*AGAIN, DATA_CHANGED}
"""What trials lose no work by."""
PLACES = list(dict.fromkeys([*(kind.family or kind.what for kind in KINDS), *OTHERS]))
FAMILIES = {kind.what: kind.family for kind in KINDS if kind.family}


def what_of(fault: dict[str, Any]) -> str:
    """The fault, in words."""
    if fault["point"] == "outside":
        return str(fault["of"])
    kinds = [kind for kind in KINDS if (kind.point, kind.of) == (fault["point"], fault["of"])]
    fits = [kind for kind in kinds if fault["action"] in kind.actions]
    if fault["action"] == "clock":
        fits = [kind for kind in fits if (kind.seconds[0] < 0) == (fault["seconds"] < 0)]
    return fits[0].what


def _effect(fault: dict[str, Any]) -> str:
    if fault["point"] in {"outside", "*/half"}:
        return ""
    effects = dict.fromkeys(DIES, "dies") | dict.fromkeys(FAILS, "fails") | {"sleep": "stalls"}
    return effects.get(fault["action"], "")


def struck(file: Path) -> list[dict[str, Any]]:
    """The faults that happened, in the order of time."""
    return sorted(read_lines(Path(f"{file}{LOG}")), key=lambda fault: fault["time"])


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    what: str
    effect: str
    """`dies`, `fails` or `stalls`."""
    seconds: float | None
    """Until the sweep was where it had been; None: never."""
    epochs: float
    """Trained again because of it, in all trials together."""
    most: float
    """The same in one trial."""


def outcomes(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[Outcome]:
    """Looks up in the events how each fault was recovered from.

    A worker's fault is over when its trial stands where it stood; one that kills a driver when a trial goes on under
    the next one, or that one ends; one that kills nobody when it no longer lasts and records arrive or a trial goes on;
    wrong numbers when their trial is through. Whether the end is right is not looked at here.
    """
    repeated = _repeated(faults, events)
    found = []
    for number, fault in enumerate(faults):
        lost = [one for one in repeated if number == _cause(one, faults)]
        found.append(
            Outcome(
                what_of(fault),
                _effect(fault),
                _seconds(fault, events),
                sum(one.epochs for one in lost),
                max((one.epochs for one in lost), default=0.0),
            )
        )
    return found


def _seconds(fault: dict[str, Any], events: list[dict[str, Any]]) -> float | None:
    before = [event for event in events if event["time"] <= fault["time"]]
    after = [event for event in events if event["time"] > fault["time"]]
    over = [event for event in after if event["event"] == "driver ended"][:1]
    own = [event for event in before if event["pid"] == fault["pid"] and "trial" in event]
    if what_of(fault) in KILLS_NOBODY:
        until = fault["time"] + (fault["seconds"] if fault["action"] != "clock" else 0.0)
        ends = (event for event in after if event["event"] in {"sent", "step"} and event["time"] >= until)
        ends_or_over = [*ends][:1] or over
    elif fault["action"] in CLASSES:
        done = [event for event in after if event["event"] == "done" and event["trial"] == fault["about"]]
        # its worker may have died after all was said: the sweep's end then tells that it is through
        ends_or_over = done[:1] or [event for event in after if event["event"] == "driver ended"][-1:]
    elif own:
        trial, stood = own[-1]["trial"], _standing(own[-1])
        ends = (event for event in after if event.get("trial") == trial and _standing(event) >= stood)
        ends_or_over = [*ends][:1] or over
    else:
        drivers = [event["driver"] for event in before if event["event"] == "driver began"]
        later = (event for event in after if event.get("driver", -1) > max(drivers))
        ends_or_over = [event for event in later if event["event"] in {"step", "driver ended"}][:1] or over
    return ends_or_over[0]["time"] - fault["time"] if ends_or_over else None


def _standing(event: dict[str, Any]) -> tuple[int, int]:
    """How far a trial was; measuring counts as one."""
    if event["event"] == "begun":
        return (0, -1)
    if event["event"] == "done":
        return (2, 0)
    return (1, 0) if event["step"] is None else (0, event["step"])


@dataclass(frozen=True)
class Again:
    """Batches that a trial trained once more."""

    trial: str
    batches: int
    of_epoch: int
    causes: tuple[int, ...]
    """What happened to it since its last step, as numbers of faults; the first is what ended its attempt."""

    @property
    def epochs(self) -> float:
        return self.batches / self.of_epoch


def _repeated(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[Again]:
    """What trials trained more than once; each attempt is looked at once."""
    reached: dict[str, int] = {}
    trial_of: dict[int, str] = {}
    causes: dict[str, list[int]] = {}
    seen: set[str] = set()
    found = []
    numbers = count()
    for event in events:
        if "trial" in event:
            trial_of[event["pid"]] = event["trial"]
            causes.setdefault(event["trial"], [])
        if event["event"] == "fault":
            number = next(numbers)
            if what_of(faults[number]) not in COSTS_NOTHING:
                meant = trial_of.get(event["pid"]) or event["about"]
                for trial in [meant] if meant in causes else causes:
                    causes[trial].append(number)
        elif event["event"] == "step" and event["step"] is not None:
            trial = event["trial"]
            # an attempt that begins at a checkpoint is first heard of after its next batch
            again = reached.get(trial, 0) - (event["step"] - 1)
            if event["attempt"] not in seen and again > 0:
                found.append(Again(trial, again, event["of_epoch"], tuple(causes[trial])))
            seen.add(event["attempt"])
            causes[trial] = []
            reached[trial] = event["step"]  # what an earlier attempt lost is not lost again
    return found


def in_order(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events and faults together, in the order of time."""
    return sorted([*events, *({"event": "fault"} | fault for fault in faults)], key=lambda event: event["time"])


def table(found: list[Outcome]) -> str:
    """A line for each kind, as Markdown; `at most`: epochs that one trial repeated because of one fault."""
    columns = ("fault", "", "injected", "recovered", "s, median", "s, max", "epochs repeated", "at most")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in found:
        groups.setdefault((FAMILIES.get(one.what, one.what), one.effect), []).append(one)
    for group in sorted(groups, key=lambda group: (PLACES.index(group[0]), group[1])):
        lines.append(_line(*group, groups[group]))
    lines.append(_line("all", "", found))
    return "\n".join(lines)


def _line(what: str, effect: str, group: list[Outcome]) -> str:
    seconds = [one.seconds for one in group if one.seconds is not None]
    times = f"{median(seconds):.1f} | {max(seconds):.1f}" if seconds else "| "
    again, most = sum(one.epochs for one in group), max((one.most for one in group), default=0.0)
    return f"| {what} | {effect} | {len(group)} | {len(seconds)} | {times} | {again:.1f} | {most:.2g} |"


def _cause(again: Again, faults: list[dict[str, Any]]) -> int | None:
    """What cost the most: a checkpoint that was damaged or removed; else what ended the attempt."""
    worst = max((number for number in again.causes if what_of(faults[number]) in AGAIN), default=None)
    return worst if worst is not None else next(iter(again.causes), None)


def repeated_too_much(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[str]:
    """Trials that were trained more often than what happened to them excuses."""
    found = []
    for again in _repeated(faults, events):
        most = 1 + sum(AGAIN.get(what_of(faults[number]), 1.0) - 1 for number in again.causes)
        if again.epochs > most:
            found.append(f"{again.trial}: {again.epochs:g} epochs were trained again, not {most:g} at most")
    return found


def wrong_failures(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[str]:
    """Failures of another class than what made them, or of trials that nothing happened to; trials that went on after
    a failure without being asked to; wrong numbers that went unnoticed."""
    found = []
    failures = [event for event in events if event["event"] == "failed"]
    data_changed = any(fault["of"] == DATA_CHANGED for fault in faults)
    for event in failures:
        spoilt = {
            CLASSES[fault["action"]]
            for fault in faults
            if fault["action"] in CLASSES and fault["about"] == event["trial_id"]
        }
        if event["error_class"] not in spoilt | ({"bad_data"} if data_changed else set()):
            found.append(f"{event['trial_id']} failed as {event['error_class']}, which nothing explains")
    for fault in faults:
        if fault["action"] in CLASSES:
            found += [f"{fault['about']} was tried again after: {what_of(fault)}"] * _tried_again(fault, faults, events)
    return found


def _tried_again(fault: dict[str, Any], faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> bool:
    """Whether a trial went on under the same driver; not if its worker died before it could say what had happened, as
    one does that outlives its driver."""
    own = [event for event in events if event["pid"] == fault["pid"] and event["time"] <= fault["time"]]
    driver = next(event["driver"] for event in reversed(own) if "driver" in event)
    ends = [event["time"] for event in events if event["event"] == "driver ended" and event["driver"] == driver]
    dies = [one["time"] for one in faults if one["pid"] == fault["pid"] and one["time"] > fault["time"]]
    until = min([*ends, *dies], default=0.0)
    begun = [event["time"] for event in events if event["event"] == "begun" and event["trial"] == fault["about"]]
    return any(fault["time"] < at < until for at in begun)
