"""A lock where there are no locks: a lease that its holder renews, and that others take over when it has run out.

Leases are numbered files, each made by whoever takes the lock with a write that refuses to replace; the one with the
highest number counts. It is held until its holder says that it let go, or has not written it for `LEASE_SECONDS`. To
take over is to make the next number, which only one can; the highest is never deleted, so no number comes twice.

Clocks: how old a lease is, is told by the store's own clock on both ends: its time of writing against that of a file
written just now. A holder counts `HOLDER_SECONDS`, which are fewer, on its own steady clock from before it began to
write; when they are over it holds nothing, and writes no more. So no two clocks need to agree, only to run alike.
"""

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workers.failures import StorageError

if TYPE_CHECKING:
    from workers.storage import Folder

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{8,18}")

LEASE_SECONDS = 32.0
"""A lease that is older has run out for all others; stores tell whole seconds."""
HOLDER_SECONDS = 27.0
"""And for its holder."""
RENEW_SECONDS = 9.0
RETRY_SECONDS = 2.0
"""Between renewals: after one that succeeded, and after one that failed."""
POLL_SECONDS = 1.0
"""Between two looks at somebody else's."""
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Also counts while the machine sleeps, where there is such a clock."""


@dataclass(frozen=True)
class _Seen:
    """Somebody's lease: whether it was let go, who wrote it and when."""

    released: bool
    who: str
    written: datetime


class Lease:
    """One holder's hold of a lock.

    Args:
        folder: of the lock.
        of: what it locks, for messages.
    """

    def __init__(self, folder: "Folder", of: str) -> None:
        self._folder, self._of = folder, of
        self._who = f"process {os.getpid()} on {socket.gethostname()}"
        self._holder = uuid.uuid4().hex
        self._number, self._until, self._is_lost = 0, 0.0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="flatsweep-lease", daemon=True)

    def acquire(self, timeout: float, *, unless_alive: bool = False) -> None:
        """Takes the lock, and keeps it until `release` from a thread of its own.

        Args:
            timeout: seconds to wait for another holder.
            unless_alive: give up as soon as that holder is seen to renew its lease.

        Raises:
            StorageError: another process holds it still.
        """
        until, first, clock = _now() + timeout, None, None
        while True:
            number = self._newest()
            seen = self._seen(number) if number else None
            if seen is not None and not seen.released:
                clock = clock or _StoreClock(self._folder)
                first = first or seen
                if clock.seconds_since(seen.written) <= LEASE_SECONDS:
                    if _now() > until or (unless_alive and seen != first):
                        raise StorageError(f"another process is working in {self._of}: {seen.who}")
                    time.sleep(min(POLL_SECONDS, max(0.05, until - _now())))
                    continue
            started = _now()
            if self._take(number + 1):
                self._number, self._until = number + 1, started + HOLDER_SECONDS
                self._thread.start()
                return

    def check(self) -> None:
        """Refuses to go on where the lock may be somebody else's by now.

        Raises:
            StorageError: it has run out, or was taken over.
        """
        if self._is_lost or _now() > self._until:
            self._is_lost = True
            raise StorageError(f"the lock on {self._of} is lost: it could not be renewed in time, and may be another's")

    def release(self) -> None:
        """Lets go. Where that cannot be said, the lease runs out by itself."""
        self._stop.set()
        self._thread.join(RETRY_SECONDS)
        if self._is_lost or self._thread.is_alive():
            return
        try:
            self._folder.write(_name(self._number), self._content(released=True))
        except StorageError as error:
            logger.warning("cannot let go of the lock on %s, it runs out by itself: %s", self._of, error)

    def is_held(self) -> bool:
        """Whether somebody holds it, as far as this machine's clock can tell; writes nothing."""
        number = self._newest()
        seen = self._seen(number) if number else None
        return seen is not None and not seen.released and _age(seen.written, datetime.now(UTC)) <= LEASE_SECONDS

    def _take(self, number: int) -> bool:
        """Makes the lease of that number, unless somebody has, or has made a higher one meanwhile."""
        if not self._folder.create(_name(number), self._content()):
            return False
        numbers = self._numbers()
        if max(numbers, default=0) != number:
            self._folder.delete_files([_name(number)])
            return False
        self._folder.delete_files([_name(old) for old in numbers if old < number])
        return True

    def _keep(self) -> None:
        """Renews the lease until it is released or lost."""
        wait = RENEW_SECONDS
        while not self._stop.wait(wait):
            renewed = self._renewed()
            wait = RENEW_SECONDS if renewed else RETRY_SECONDS
            if self._is_lost or _now() > self._until:
                self._is_lost = True
                logger.error("the lock on %s is lost: nothing is written there any more", self._of)
                return

    def _renewed(self) -> bool:
        """Writes the lease again, and looks whether it was taken over; says whether it holds longer now."""
        started = _now()
        try:
            self._folder.write(_name(self._number), self._content())
            self._is_lost = self._newest() > self._number
        except StorageError as error:
            logger.warning("cannot renew the lock on %s: %s", self._of, error)
            return False
        # one that comes back too late may have come after somebody else's look
        if self._is_lost or _now() > self._until:
            return False
        self._until = started + HOLDER_SECONDS
        return True

    def _numbers(self) -> list[int]:
        return [int(name) for name in self._folder.names() if _NUMBER.fullmatch(name)]

    def _newest(self) -> int:
        """The number that counts; 0 where nobody ever held the lock."""
        return max(self._numbers(), default=0)

    def _seen(self, number: int) -> _Seen | None:
        """A lease; None where it is gone by now, or was never written by one of us."""
        try:
            written = self._folder.modified(_name(number))
            content = json.loads(self._folder.read(_name(number)))
            return _Seen(bool(content["released"]), str(content["who"]), written)
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _content(self, released: bool = False) -> bytes:
        return json.dumps({"holder": self._holder, "who": self._who, "released": released}).encode()


class _StoreClock:
    """The time by the clock of whoever stores a folder; never later than it is there."""

    def __init__(self, folder: "Folder") -> None:
        name = f"clock-{uuid.uuid4().hex}"
        folder.write(name, b"")
        self._at = _now()
        self._written = folder.modified(name)
        folder.delete_files([name])

    def seconds_since(self, time_there: datetime) -> float:
        return _age(time_there, self._written) + _now() - self._at


def _age(earlier: datetime, later: datetime) -> float:
    """Seconds between two times; file systems without zones tell UTC."""
    first, second = (each if each.tzinfo else each.replace(tzinfo=UTC) for each in (earlier, later))
    return (second - first).total_seconds()


def _name(number: int) -> str:
    return f"{number:08d}"


def _now() -> float:
    return time.clock_gettime(STEADY)
