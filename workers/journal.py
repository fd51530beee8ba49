"""The journal: a trial's records as JSON lines in its own folder, written before anything is sent anywhere."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Literal

from workers.log import Log
from workers.storage import Folder

logger = logging.getLogger(__name__)

FILE = "journal.jsonl"
"""Its name: of a file in a local folder, of a folder of segments on an object store (`workers.log`)."""

Kind = Literal["metric", "tag", "state", "file"]


@dataclass(frozen=True)
class Record:
    """One line of the journal.

    `metric`: `value` at `step`. `tag`: `text`. `state`: the trial's state in `text` (running, finished, ...). `file`: a
    file of the trial's folder, `key` its path there and `text` the hash of its content.
    """

    kind: Kind
    key: str
    value: float = 0.0
    step: int = 0
    text: str = ""
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))


class Journal:
    """Reads and extends one trial's journal. A line that a crash cut short is dropped at the next opening."""

    def __init__(self, folder: Folder) -> None:
        self._log = Log(folder, FILE)
        content = self._log.read()
        self.records, whole = parse(content)
        if whole != content:
            self._log.mend(whole)
        self._known = {(record.key, record.step): record.value for record in self.records if record.kind == "metric"}

    def add(self, records: list[Record], *, replace: bool = False) -> list[Record]:
        """Appends what is new and returns it. A metric that has a value at that step already keeps the first one.

        An epoch that is trained again after a crash gives the same values, so the first ones are as good.

        Args:
            records: to append.
            replace: a metric takes the new value if it differs: measured again, with other settings.
        """
        new = []
        for record in records:
            if record.kind == "metric":
                place = (record.key, record.step)
                if place in self._known and not (replace and not same(self._known[place], record.value)):
                    continue
                self._known[place] = record.value
            new.append(record)
        if new:
            self._log.append(b"".join(json.dumps(asdict(record)).encode() + b"\n" for record in new))
            self.records.extend(new)
        return new

    def pack(self) -> None:
        """Makes it quick to read; call it at the end of an attempt, by whoever holds the folder."""
        self._log.pack()

    def values(self, key: str) -> list[float]:
        """All values of a metric, in the order of recording."""
        return [record.value for record in self.records if record.kind == "metric" and record.key == key]


def content(folder: Folder) -> bytes:
    """A journal's bytes as they are at this moment, a line that is being written perhaps cut short; b"" without one."""
    return Log(folder, FILE).read()


def read_records(folder: Folder) -> list[Record]:
    """The records of a trial that another process may be writing; a line that is not whole yet is left out."""
    return parse(content(folder))[0]


def same(first: float, second: float) -> bool:
    """Whether two values are equal; not a number equals itself here."""
    return first == second or (math.isnan(first) and math.isnan(second))


def parse(content: bytes) -> tuple[list[Record], bytes]:
    """The records in a journal's bytes, and the bytes of the whole lines that hold them."""
    records, kept = [], []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            record = Record(**json.loads(line))
            if not line.endswith(b"\n"):
                raise ValueError("no end of line")
        except (ValueError, TypeError) as error:
            logger.warning("journal line %d is damaged and left out: %s", number, error)
            continue
        records.append(record)
        kept.append(line)
    return records, b"".join(kept)
