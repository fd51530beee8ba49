"""Records of a running trial: to the journal first, then, from a thread of its own, to wherever a sink sends them.

Training never waits for the tracking store. What could not be sent stays in the journal and is sent later.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from workers import unsent
from workers.failures import StorageError
from workers.journal import Journal, Record
from workers.storage import Folder
from workers.unsent import Unsent

logger = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits after the first, second, ... failure to send; the last one repeats."""
LATE_SECONDS = 10.0
"""Records that wait for longer are told of: a store takes a moment, and its client seconds to start."""


class Sink(Protocol):
    """Where records go after the journal."""

    def send(self, records: Sequence[Record]) -> None:
        """Delivers the records or raises; delivering some twice must do no harm."""

    def told(self, waits: Unsent | None) -> None:
        """Hears what has been waiting for it for longer than `LATE_SECONDS`, and None when nothing does any more."""


class Recorder:
    """Writes one trial's records.

    Args:
        folder: the trial's folder.
        sink: where records are sent besides; None for the journal alone.
    """

    def __init__(self, folder: Folder, sink: Sink | None = None) -> None:
        self._folder, self.journal = folder, Journal(folder)
        self._sender = _Sender(sink, folder) if sink else None
        if self._sender and self.journal.records:
            self._sender.put(self.journal.records)

    def metrics(self, values: Mapping[str, float], step: int, *, replace: bool = False) -> None:
        """Records metrics at a step; one call is one write. The first value at a step stays, unless `replace`."""
        self._add([Record("metric", key, value=float(value), step=step) for key, value in values.items()], replace)

    def tags(self, values: Mapping[str, str]) -> None:
        """Records tags; a later value replaces an earlier one."""
        # a path that is no UTF-8 has lone surrogates, which no tracking store takes
        plain = {key: text.encode(errors="backslashreplace").decode() for key, text in values.items()}
        self._add([Record("tag", key, text=text) for key, text in plain.items()])

    def file(self, path: str) -> None:
        """Records a file of the trial's folder, once for each content that it has."""
        content = hashlib.sha256(self._folder.read(path)).hexdigest()
        known = [record for record in self.journal.records if record.kind == "file" and record.key == path]
        if not known or known[-1].text != content:
            self._add([Record("file", path, text=content)])

    def state(self, state: str) -> None:
        """Records the state that the trial is in from now on."""
        self._add([Record("state", "state", text=state)])

    def close(self, timeout: float = 30.0) -> int:
        """Waits until everything is sent; packs the journal, while whoever records still holds the folder.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Number of records that are in the journal only.
        """
        try:
            self.journal.pack()
        except StorageError as error:  # it is only slower to read
            logger.warning("cannot pack the journal: %s", error)
        return self._sender.close(timeout) if self._sender else 0

    def _add(self, records: list[Record], replace: bool = False) -> None:
        new = self.journal.add(records, replace=replace)
        if self._sender and new:
            self._sender.put(new)


class _Sender:
    """A thread that hands records to the sink in order, and tries again while the sink raises."""

    def __init__(self, sink: Sink, folder: Folder) -> None:
        self._sink, self._folder = sink, folder
        self._queue: deque[Record] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._waits_since = time.monotonic()
        self._reason = ""
        self._told_at = float("-inf")
        self._noted = True  # an attempt that was killed may have left a note
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="flatsweep-sender", daemon=True)
        self._thread.start()

    def put(self, records: Sequence[Record]) -> None:
        with self._wake:
            if not self._queue:
                self._waits_since = time.monotonic()
            self._queue.extend(records)
            self._wake.notify()
        self._tell()

    def close(self, timeout: float) -> int:
        with self._wake:
            self._closing = True
            self._deadline = time.monotonic() + timeout
            self._wake.notify()
        self._thread.join(timeout + 1)
        if self._queue:
            self._tell(closing=True)
        return len(self._queue)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue or time.monotonic() > self._deadline:
                    return
                records = list(self._queue)
            started = time.monotonic()
            try:
                self._sink.send(records)
            except Exception as error:  # whatever the store's client raises: the journal has the records
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                logger.warning("cannot send %d records, trying again in %g s: %s", len(records), wait, error)
                self._reason = unsent.plain_reason(error)
                self._tell()
                with self._wake:
                    if self._closing:
                        self._wake.wait(min(wait, max(0.0, self._deadline - time.monotonic())))
                    else:  # new records do not shorten the wait, closing does
                        self._wake.wait_for(lambda: self._closing, wait)
                continue
            failures = 0
            self._sent(len(records), started)

    def _sent(self, count: int, started: float) -> None:
        """`count` records are sent; what is left came after `started`."""
        with self._wake:
            for _ in range(count):
                self._queue.popleft()
            self._waits_since, self._reason = started, ""
        with self._telling:
            if self._noted:
                self._noted, self._told_at = False, float("-inf")
                self._sink.told(None)
                unsent.note(self._folder, None)

    def _tell(self, closing: bool = False) -> None:
        """Tells sink and storage what waits, if it does so for long, or for good; at most every `LATE_SECONDS`."""
        with self._telling:
            now = time.monotonic()
            with self._wake:
                records, late = len(self._queue), now - self._waits_since
            if not records or (not closing and (late < LATE_SECONDS or now - self._told_at < LATE_SECONDS)):
                return
            self._noted, self._told_at = True, now
            waits = Unsent(records, int((time.time() - late) * 1000), self._reason)
            self._sink.told(waits)
            unsent.note(self._folder, waits)
