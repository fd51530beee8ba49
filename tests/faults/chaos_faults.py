"""Which faults there are, and some of them drawn from a seed."""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos_acts import BETWEEN, CTRL_C, DATA_CHANGED, GROWN, KILLED, PREEMPTED, SECOND, TWICE, Act
from chaos_scheduler import STEP
from chaos_server import ERRORS, HANGS, LOCKED, LOST, SLOW, ServerFault
from chaos_server import KILLED as SERVER_KILLED

from workers.faults import Fault

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
    seconds: tuple[float, float] = (0.0, 0.0)
    """Between these: before the process dies; how long it lasts; how far a clock jumps."""
    share: float = 0.0
    family: str = ""
    """What the table calls it; `what` if not given."""


def _of_file(what: str, of: str, hits: int) -> list[Kind]:
    return [
        Kind(f"half of {what} written", "file/half", (*DIES, *FAILS), hits, of, family="half of a file written"),
        Kind(
            f"{what} written, not yet in place",
            "file/written",
            (*DIES, *FAILS),
            hits,
            of,
            family="a file written, not yet in place",
        ),
        Kind(f"{what} in place", "file/replaced", DIES, hits, of, family="a file just in place"),
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
    Kind(
        "before a batch to MLflow",
        "mlflow/begin",
        (*DIES, *FAILS, "sleep"),
        6,
        seconds=(0.05, 0.5),
        family="within a batch to MLflow",
    ),
    Kind(
        "metrics in MLflow, tags not",
        "mlflow/metrics",
        (*DIES, *FAILS, "sleep"),
        6,
        seconds=(0.05, 0.5),
        family="within a batch to MLflow",
    ),
    Kind(
        "tags in MLflow, status not",
        "mlflow/tags",
        (*DIES, *FAILS, "sleep"),
        6,
        seconds=(0.05, 0.5),
        family="within a batch to MLflow",
    ),
    Kind("all in MLflow, run not yet closed", "mlflow/tags", DIES, 2, "finished", family="within a batch to MLflow"),
    Kind("batch in MLflow", "mlflow/sent", (*DIES, *FAILS), 6, family="within a batch to MLflow"),
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
    Kind("driver: within 1 s of a trial's end", "driver/trial-end", DIES, 4, seconds=(0.0, 1.0)),
    Kind("driver: all trials through", "driver/launched", (*DIES, *FAILS)),
    Kind("driver: before it closes the sweep's run", "driver/closing", (*DIES, *FAILS)),
)
HOUR = 3600.0
STORAGE = (
    Kind("disk full for a while", "*/half", ("enospc",), 6, seconds=(0.3, 3)),
    Kind("storage read-only for a while", "*/half", ("erofs",), 6, seconds=(0.3, 3)),
    Kind("I/O error in 1 % of writes", "*/half", ("eio",), share=0.01),
)
NUMBERS = (
    Kind("a weight becomes NaN", STEP, ("nan",), 9),
    Kind("an infinite loss", STEP, ("inf",), 9),
    Kind("GPU out of memory", STEP, ("oom",), 9),
    Kind("an attack leaves [0, 1]", STEP, ("outside",), 9),
)
CLOCKS = (
    Kind("worker's clock jumps forward", "train/epoch", ("clock",), 4, seconds=(HOUR, 30 * HOUR)),
    Kind("worker's clock jumps back", "train/epoch", ("clock",), 4, seconds=(-30 * HOUR, -HOUR)),
    Kind("driver's clock jumps forward", "driver/planned", ("clock",), seconds=(HOUR, 30 * HOUR)),
    Kind("driver's clock jumps back", "driver/planned", ("clock",), seconds=(-30 * HOUR, -HOUR)),
)
KINDS = (*WORKER, *DRIVER, *STORAGE, *NUMBERS, *CLOCKS)
OTHERS = (LOCKED, ERRORS, LOST, HANGS, SLOW, SERVER_KILLED, CTRL_C, TWICE, SECOND, KILLED, PREEMPTED, *BETWEEN)
"""What is done from outside: to MLflow, by people, to a whole machine."""
DURING = (CTRL_C, TWICE, SECOND, LOCKED)


@dataclass(frozen=True)
class Drawn:
    """What is to happen to one sweep."""

    faults: list[Fault]
    """At places in the code."""
    acts: list[Act] = field(default_factory=list)
    """From outside."""
    server: list[ServerFault] | None = None
    """To the server that it is recorded on; None where it is recorded in SQLite."""


def drawn(seed: int) -> Drawn:
    """Some faults, a function of the seed. Every fourth sweep is recorded on a server; of every eighth everything that
    is at work dies again and again."""
    chance = random.Random(seed)
    faults = [_one(kind, chance) for kind in [*chance.choices(WORKER, k=4), *chance.choices(DRIVER, k=2)]]
    faults += [_one(chance.choice(kinds), chance) for kinds in (STORAGE, CLOCKS) if chance.random() < 1 / 3]
    faults += [_one(chance.choice(NUMBERS), chance)] if chance.random() < 1 / 2 else []
    server = [_of_server(what, chance) for what in (LOST, *_server_kinds(chance))] if seed % 4 == 0 else None
    if seed % 8 == 7:
        acts = [Act(PREEMPTED, 0, chance.randint(15, 40), repeats=True)]
    else:
        acts = [_during(what, chance) for what in chance.sample(DURING, 2)]
        acts += [act for number, what in enumerate(_between(chance)) for act in _killed_first(what, number, chance)]
    return Drawn(faults, acts, server)


def _server_kinds(chance: random.Random) -> list[str]:
    return chance.choices((ERRORS, HANGS, SLOW, SERVER_KILLED), k=3)


def _between(chance: random.Random) -> list[str]:
    """What is done between drivers; a larger grid can only be the first, the data are changed at the end."""
    found = chance.sample(list(BETWEEN), 2)
    return sorted(found, key=lambda what: (what == DATA_CHANGED) - (what == GROWN))


def _killed_first(what: str, number: int, chance: random.Random) -> list[Act]:
    killed = Act(KILLED, number, chance.randint(5, 45))
    return [killed, Act(what, number + 1, chance=chance.randrange(10**6))]


def _during(what: str, chance: random.Random) -> Act:
    seconds = round(chance.uniform(0.5, 8) if what == LOCKED else chance.uniform(0, 0.3), 2)
    return Act(what, chance.randint(0, 1), chance.randint(0, 40), seconds)


def _of_server(what: str, chance: random.Random) -> ServerFault:
    return ServerFault(what, chance.randint(20, 200), 0.0 if what == LOST else round(chance.uniform(0.5, 4), 2))


def _one(kind: Kind, chance: random.Random) -> Fault:
    action = chance.choice(kind.actions)
    lasts = action in {"sleep", "clock"} or kind in STORAGE or (kind.seconds[1] and action in DIES)
    seconds = round(chance.uniform(*kind.seconds), 3) if lasts else 0.0
    return Fault(kind.point, action, kind.of, chance.randint(1, kind.hits), seconds, kind.share)


def write_faults(faults: list[Fault], file: Path) -> None:
    """As `workers.faults` reads them."""
    file.write_text(json.dumps([asdict(fault) for fault in faults], indent=1))


MENDED_FILE = Path(__file__).with_name("chaos_mended.json")


def mended() -> dict[str, Drawn]:
    """Faults that showed a mistake once, by the name of the seed that they were drawn from."""
    found = json.loads(MENDED_FILE.read_text())
    return {
        name: Drawn(
            [Fault(**fault) for fault in one.get("faults", [])],
            [Act(**act) for act in one.get("acts", [])],
            [ServerFault(**fault) for fault in one["server"]] if "server" in one else None,
        )
        for name, one in found.items()
    }
