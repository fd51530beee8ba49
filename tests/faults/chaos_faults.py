"""Which faults there are, some of them drawn from a seed, and what became of those that happened."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from workers.faults import LOG, Fault

DIES = ("kill", "term", "exit")
FAILS = ("enospc", "eio")


@dataclass(frozen=True)
class Kind:
    """Faults at one point."""

    what: str
    """The moment, in words."""
    point: str
    actions: tuple[str, ...] = DIES
    hits: int = 1
    """Drawn from 1 to this."""
    of: str = "*"
    delay: float = 0.0
    """Seconds at most before the process dies."""


def _of_file(what: str, of: str, hits: int) -> list[Kind]:
    return [
        Kind(f"half of {what} written", "file/half", (*DIES, *FAILS), hits, of),
        Kind(f"{what} written, not yet in place", "file/written", (*DIES, *FAILS), hits, of),
        Kind(f"{what} in place", "file/replaced", DIES, hits, of),
    ]


WORKER = (
    Kind("in a step of an attack", "attack/step", DIES, 60),
    Kind("after a batch", "train/batch", DIES, 24),
    Kind("epoch recorded, not yet saved", "train/epoch", DIES, 6),
    *_of_file("a checkpoint", "*/checkpoints/epoch-*", 6),
    *_of_file("a kept network", "*/snapshots/*", 6),
    *_of_file("a measure's result or part", "*/measures/*", 8),
    *_of_file("trial.json", "*/trial.json", 2),
    *_of_file("data.json", "*/data.json", 2),
    Kind("before a journal line", "append/before", (*DIES, *FAILS), 16, "*/journal.jsonl"),
    Kind("half of a journal line written", "append/half", (*DIES, *FAILS), 16, "*/journal.jsonl"),
    Kind("journal line written, not yet sent", "append/after", DIES, 16, "*/journal.jsonl"),
    Kind("part of a measure done", "measure/part", DIES, 6),
    Kind("a measure done, its parts still there", "measure/kept", DIES, 5),
    Kind("before a batch to MLflow", "mlflow/begin", (*DIES, *FAILS, "sleep"), 6),
    Kind("metrics in MLflow, tags not", "mlflow/metrics", (*DIES, *FAILS, "sleep"), 6),
    Kind("tags in MLflow, status not", "mlflow/tags", (*DIES, *FAILS, "sleep"), 6),
    Kind("all in MLflow, run not yet closed", "mlflow/tags", DIES, 2, "finished"),
    Kind("batch in MLflow", "mlflow/sent", (*DIES, *FAILS), 6),
    Kind("trial just begun", "trial/running", DIES, 2),
    Kind("trial ended, last records not sent", "trial/finished", DIES, 2),
    Kind("trial ended, all sent", "trial/closed", DIES, 2),
)
DRIVER = (
    Kind("driver: planned", "driver/planned", (*DIES, *FAILS)),
    Kind("driver: run made, with nothing in it", "run/created", (*DIES, *FAILS), 4),
    Kind("driver: run made, without parameters", "run/file", (*DIES, *FAILS), 4),
    Kind("driver: run made", "driver/run-made", (*DIES, *FAILS), 4),
    Kind("driver: half of sweep.json written", "file/half", (*DIES, *FAILS), 1, "*/sweep.json"),
    Kind("driver: within 1 s of a trial's end", "driver/trial-end", DIES, 4, delay=1.0),
    Kind("driver: all trials through", "driver/launched", (*DIES, *FAILS)),
    Kind("driver: before it closes the sweep's run", "driver/closing", (*DIES, *FAILS)),
)
BY_PLACE = {(kind.point, kind.of): kind.what for kind in (*WORKER, *DRIVER)}


def drawn(seed: int, workers: int = 7, drivers: int = 3) -> list[Fault]:
    """So many faults, a function of the seed."""
    chance = random.Random(seed)
    kinds = [*chance.choices(WORKER, k=workers), *chance.choices(DRIVER, k=drivers)]
    return [_one(kind, chance) for kind in kinds]


def _one(kind: Kind, chance: random.Random) -> Fault:
    action = chance.choice(kind.actions)
    seconds = chance.uniform(0.05, 0.5) if action == "sleep" else round(chance.random() * kind.delay, 3)
    return Fault(kind.point, action, kind.of, chance.randint(1, kind.hits), seconds)


def write_faults(faults: list[Fault], file: Path) -> None:
    """As `workers.faults` reads them."""
    file.write_text(json.dumps([asdict(fault) for fault in faults], indent=1))


def struck(file: Path) -> list[dict[str, Any]]:
    """Those that happened, in the order of time."""
    return read_lines(Path(f"{file}{LOG}"))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON lines; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    what: str
    effect: str
    """`dies`, `fails` or `stalls`."""
    seconds: float | None
    """Until the sweep was where it had been; None: never."""
    batches: int
    """Trained again because of it."""
    epochs: float
    """The same in epochs."""


def outcomes(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[Outcome]:
    """Looks up in the events how each fault was recovered from.

    A worker's fault is over when its trial stands where it stood; a driver's when a trial goes on under the next one,
    or that one ends.
    """
    repeated = _repeated(events)
    found = []
    for number, fault in enumerate(faults):
        effect = "dies" if fault["action"] in DIES else "fails" if fault["action"] in FAILS else "stalls"
        lost = [one for one in repeated if one[3] == number]
        found.append(
            Outcome(
                BY_PLACE[fault["point"], fault["of"]],
                effect,
                _seconds(fault, events),
                sum(batches for _, batches, _, _ in lost),
                max((batches / of_epoch for _, batches, of_epoch, _ in lost), default=0.0),
            )
        )
    return found


def _seconds(fault: dict[str, Any], events: list[dict[str, Any]]) -> float | None:
    before = [event for event in events if event["time"] <= fault["time"]]
    after = [event for event in events if event["time"] > fault["time"]]
    own = [event for event in before if event["pid"] == fault["pid"] and "trial" in event]
    if own:
        trial, stood = own[-1]["trial"], _standing(own[-1])
        ends = (event for event in after if event.get("trial") == trial and _standing(event) >= stood)
        ends_or_over = [*ends][:1] or [event for event in after if event["event"] == "driver ended"][:1]
    else:
        drivers = [event["driver"] for event in before if event["event"] == "driver began"]
        later = (event for event in after if event.get("driver", -1) > max(drivers))
        ends_or_over = [event for event in later if event["event"] in {"step", "driver ended"}][:1]
    return ends_or_over[0]["time"] - fault["time"] if ends_or_over else None


def _standing(event: dict[str, Any]) -> tuple[int, int]:
    """How far a trial was; measuring counts as one."""
    if event["event"] == "begun":
        return (0, -1)
    if event["event"] == "done":
        return (2, 0)
    return (1, 0) if event["step"] is None else (0, event["step"])


def _repeated(events: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    """Of each attempt that trained batches once more: trial, how many, batches in an epoch; the fault before it, of
    this trial's worker or of a driver."""
    reached: dict[str, int] = {}
    seen: set[str] = set()
    found = []
    faults = 0
    trial_of: dict[int, str] = {}
    last: dict[str | None, int] = {}
    for event in events:
        if "trial" in event:
            trial_of[event["pid"]] = event["trial"]
        if event["event"] == "fault":
            last[trial_of.get(event["pid"])] = faults
            faults += 1
        elif event["event"] == "step" and event["step"] is not None:
            trial = event["trial"]
            if event["attempt"] not in seen:
                seen.add(event["attempt"])
                # an attempt that begins at a checkpoint is first heard of after its next batch
                again = reached.get(trial, 0) - (event["step"] - 1)
                if again > 0:
                    found.append((trial, again, event["of_epoch"], max(last.get(trial, -1), last.get(None, -1))))
            reached[trial] = max(reached.get(trial, 0), event["step"])
    return found


def in_order(faults: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events and faults together, in the order of time."""
    return sorted([*events, *({"event": "fault"} | fault for fault in faults)], key=lambda event: event["time"])


def table(found: list[Outcome]) -> str:
    """A line for each kind, as Markdown."""
    columns = ("fault", "", "injected", "recovered", "s, median", "s, max", "batches repeated", "epochs, max")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    places = list(dict.fromkeys(BY_PLACE.values()))
    groups = sorted({(one.what, one.effect) for one in found}, key=lambda group: (places.index(group[0]), group[1]))
    for group in groups:
        lines.append(_line(*group, [one for one in found if (one.what, one.effect) == group]))
    lines.append(_line("all", "", found))
    return "\n".join(lines)


def _line(what: str, effect: str, group: list[Outcome]) -> str:
    seconds = [one.seconds for one in group if one.seconds is not None]
    times = f"{median(seconds):.1f} | {max(seconds):.1f}" if seconds else "| "
    epochs = max((one.epochs for one in group), default=0.0)
    batches = sum(one.batches for one in group)
    return f"| {what} | {effect} | {len(group)} | {len(seconds)} | {times} | {batches} | {epochs:.2g} |"
