"""The journal: a trial's records as JSON lines in its own folder, written before anything is sent anywhere."""

import json
import logging
import math
import re
import time
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from workers.log import Log
from workers.storage import Folder

logger = logging.getLogger(__name__)

FILE = "journal.jsonl"
"""Its name: of a file in a local folder, of a folder of segments on an object store (`workers.log`)."""

Kind = Literal["metric", "tag", "state", "file"]
_KINDS = frozenset(get_args(Kind))
_STATES = {"pending", "running", "interrupted", "finished", "failed"}
_CHECKED = re.compile(rb'(.*), "crc": "([0-9a-f]{8})"\}\n', re.DOTALL)
"""A line with the CRC-32 of what is before it, by which a bit that has tipped is noticed, also in a number."""


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
            self._log.append(b"".join(map(line_of, new)))
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
            records.append(record_of(line))
        except ValueError as error:
            logger.warning("journal line %d is damaged and left out: %s", number, error)
            continue
        kept.append(line)
    return records, b"".join(kept)


def line_of(record: Record) -> bytes:
    """A record as a line of the journal."""
    plain = json.dumps(asdict(record)).encode()[:-1]
    return b'%s, "crc": "%08x"}\n' % (plain, zlib.crc32(plain))


def record_of(line: bytes) -> Record:
    """The record in a line; also in one without a checksum, as flatsweep wrote them before.

    Raises:
        ValueError: it is damaged, cut short, or no record.
    """
    if not line.endswith(b"\n"):
        raise ValueError("no end of line")
    if checked := _CHECKED.fullmatch(line):
        if zlib.crc32(checked[1]) != int(checked[2], 16):
            raise ValueError("its checksum differs")
        line = checked[1] + b"}"
    try:
        found = json.loads(line)
        record = Record(**found)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no record: {error}") from error
    if problem := _problem(record, found):
        raise ValueError(problem)
    return record


def _problem(record: Record, found: dict[str, Any]) -> str | None:
    """What keeps something in a record's form from being one; a file in the storage may hold anything."""
    if not all(isinstance(text, str) for text in (record.kind, record.key, record.text)):
        return "its kind, key or text is no text"
    if record.kind not in _KINDS:
        return f"its kind is {record.kind!r:.40}"
    if record.kind == "state" and record.text not in _STATES:
        return f"its state is {record.text!r:.40}"
    if not all(type(number) is int and -(2**63) <= number < 2**63 for number in (record.step, record.time_ms)):
        return "its step or time is no whole number of 64 bits"
    if "time_ms" not in found or record.time_ms < 0:
        return "it has no time"
    if type(record.value) is int:  # as JSON of other writers has them
        return None if abs(record.value) < 2**1023 else "its value is out of range"
    return None if isinstance(record.value, float) else "its value is no number"
