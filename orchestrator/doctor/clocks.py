"""Clocks: of this machine against the tracking server's and the storage's. Times order values and find what is new."""

import time
import urllib.error
import urllib.request
import uuid
from email.utils import parsedate_to_datetime
from pathlib import Path

from orchestrator.doctor.finding import Finding, Level, Question, first_line
from orchestrator.doctor.storage import nearest
from orchestrator.doctor.tracking import server_address
from orchestrator.local_copy import MARGIN_MS
from workers.storage import Folder

CHECK = "clocks"
WARN_SECONDS = 5.0
"""More than what a Date header, in whole seconds, and a slow answer explain."""
PROBLEM_SECONDS = MARGIN_MS / 1000
"""From here on, copies of the record miss what changed."""
ANSWER_SECONDS = 10.0
MEND = "let NTP (chrony, systemd-timesyncd) set the clocks of all machines"


def findings(question: Question) -> list[Finding]:
    """A line for each clock that can be seen."""
    found = []
    if uri := server_address(question.tracking_uri):
        found.append(_server(uri))
    if question.storage is not None:
        found.append(_storage(question.storage))
    return found or [Finding(CHECK, Level.OK, "no other clock to compare with")]


def skew(whose: str, seconds: float) -> Finding:
    """A line for a clock that is `seconds` ahead of ours."""
    size = abs(seconds)
    if size < WARN_SECONDS:
        return Finding(CHECK, Level.OK, f"{whose} agrees with this machine's within {WARN_SECONDS:g} s")
    level = Level.PROBLEM if size >= PROBLEM_SECONDS else Level.WARNING
    way = "ahead of" if seconds > 0 else "behind"
    return Finding(CHECK, level, f"{whose} is {size:.0f} s {way} this machine's", MEND)


def _server(uri: str) -> Finding:
    """By the Date of its answer, whatever the answer is."""
    before = time.time()
    try:
        request = urllib.request.Request(f"{uri.rstrip('/')}/health", method="GET")  # noqa: S310  (http or https)
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            date = answer.headers["Date"]
    except urllib.error.HTTPError as answer:
        date = answer.headers["Date"]
    except OSError as error:
        what = f"the tracking server's clock cannot be seen: {first_line(error)}"
        return Finding(CHECK, Level.WARNING, what, "see `tracking`")
    if not date:
        return Finding(CHECK, Level.OK, "the tracking server does not say its time")
    middle = (before + time.time()) / 2
    # the header has whole seconds: half of one is the least error
    return skew("the tracking server's clock", parsedate_to_datetime(date).timestamp() + 0.5 - middle)


def _storage(storage: str) -> Finding:
    """By the time of a file that is written now."""
    folder = Folder(storage if "://" in storage else str(nearest(Path(storage))))
    name = f".flatsweep-doctor-{uuid.uuid4().hex[:8]}"
    before = time.time()
    try:
        folder.write(name, b"now")
        middle = (before + time.time()) / 2
        try:
            written = folder.modified(name)
        finally:
            folder.delete(name)
    except OSError as error:
        what = f"the storage's clock cannot be seen: {first_line(error)}"
        return Finding(CHECK, Level.WARNING, what, "see `storage`")
    return skew("the storage's clock", written.timestamp() - middle)
