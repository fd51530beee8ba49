"""The recorder against sinks that fail, hang, or take some records and then fail."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from workers import recorder as module
from workers.journal import Journal, Record
from workers.recorder import Recorder
from workers.storage import Folder
from workers.unsent import Unsent, noted


class Flaky:
    """Fails in a pattern; with `partly`, having taken the first half of what it was given."""

    def __init__(self, pattern: str, partly: bool = False) -> None:
        self.pattern, self.partly, self.calls = pattern, partly, 0
        self.received: list[Record] = []
        self.heard: list[Unsent | None] = []
        self.called = threading.Event()

    def send(self, records: Sequence[Record]) -> None:
        fails = self.pattern[self.calls % len(self.pattern)] == "x"
        self.calls += 1
        self.called.set()
        if fails and self.partly:
            self.received += records[: len(records) // 2]
        if fails:
            raise ConnectionError("the store is down")
        self.received += records

    def told(self, waits: Unsent | None) -> None:
        self.heard.append(waits)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.002))


def fill(recorder: Recorder, epochs: int = 20) -> None:
    recorder.state("running")
    for epoch in range(epochs):
        recorder.metrics({"loss": 1 / (epoch + 1), "error": 0.5}, step=epoch)
        recorder.tags({"epoch": str(epoch)})
    recorder.state("finished")


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("pattern", [".", "x.", "xxx.", ".x"])
def test_a_flaky_sink_gets_what_the_journal_holds_in_order(pattern: str, tmp_path: Path) -> None:
    folder, sink = Folder(str(tmp_path)), Flaky(pattern)
    recorder = Recorder(folder, sink)
    fill(recorder)
    assert recorder.close(30) == 0
    assert len(sink.received) == 62
    assert sink.received == recorder.journal.records == Journal(folder).records


@pytest.mark.usefixtures("fast")
def test_a_sink_that_takes_half_and_fails_gets_everything_again(tmp_path: Path) -> None:
    sink = Flaky("xx.", partly=True)
    recorder = Recorder(Folder(str(tmp_path)), sink)
    fill(recorder)
    assert recorder.close(30) == 0
    unique = list(dict.fromkeys(sink.received))
    assert set(unique) == set(recorder.journal.records)
    assert sink.received[-1] == recorder.journal.records[-1]  # the last word is the last state


def test_a_dead_sink_leaves_all_records_unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    sink = Flaky("x")
    recorder = Recorder(Folder(str(tmp_path)), sink)
    fill(recorder, epochs=4)
    assert recorder.close(0.3) == len(recorder.journal.records) == 14
    assert sink.received == [] and sink.calls > 1
    assert recorder._sender is not None and not recorder._sender._thread.is_alive()


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_a_long_retry_or_a_sink_that_hangs(tmp_path: Path) -> None:
    """With the real waits between attempts and a sink that never answers: it would hang if it waited for them."""
    release = threading.Event()

    class Hanging(Flaky):
        def send(self, records: Sequence[Record]) -> None:
            release.wait(300)

    for sink in (Flaky("x"), Hanging("x")):
        recorder = Recorder(Folder(str(tmp_path / type(sink).__name__)), sink)
        fill(recorder, epochs=1)
        assert recorder.close(0.2) == 5
    release.set()


def test_the_next_attempt_sends_what_the_last_one_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    folder = Folder(str(tmp_path))
    first = Recorder(folder, Flaky("x"))
    fill(first, epochs=3)
    assert first.close(0.1) == 11
    sink = Flaky(".")
    second = Recorder(folder, sink)
    second.metrics({"loss": 99.0}, step=1)  # known already: neither journalled nor sent
    second.metrics({"loss": 0.1}, step=7)
    assert second.close(30) == 0
    assert sink.received == Journal(folder).records and len(sink.received) == 12


def test_records_that_arrive_during_a_wait_do_not_shorten_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store that is down is asked again at every record instead of after the wait."""
    monkeypatch.setattr(module, "RETRY_SECONDS", (600.0,))
    sink = Flaky("x")
    recorder = Recorder(Folder(str(tmp_path)), sink)
    for step in range(50):
        recorder.metrics({"loss": 1.0}, step=step)
        if step == 0:
            assert sink.called.wait(30)
        threading.Event().wait(0.002)  # lets the sender run
    assert sink.calls == 1
    assert recorder.close(0.1) == 50


def test_without_a_sink_the_journal_is_all(tmp_path: Path) -> None:
    recorder = Recorder(Folder(str(tmp_path)))
    fill(recorder, epochs=2)
    assert recorder.close() == 0
    records = Journal(Folder(str(tmp_path))).records
    assert [(r.kind, r.key, r.step) for r in records if r.kind == "metric"] == [
        ("metric", "loss", 0), ("metric", "error", 0), ("metric", "loss", 1), ("metric", "error", 1),
    ]  # fmt: skip
    assert [r.text for r in records if r.kind == "state"] == ["running", "finished"]


def test_what_waits_for_long_is_told_until_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(module, "LATE_SECONDS", 0.05)
    sweep, sink = Folder(str(tmp_path)), Flaky("x")
    before_ms = int(time.time() * 1000)
    recorder = Recorder(sweep / "trial", sink)
    fill(recorder, epochs=3)
    wait_until(lambda: "trial" in noted(sweep) and noted(sweep)["trial"].records == 11)
    found = noted(sweep)["trial"]
    assert found.reason == "the store is down"
    assert before_ms - 1 <= found.since_ms <= int(time.time() * 1000) and 0 <= found.seconds(found.since_ms) < 1
    recorder.metrics({"loss": 0.1}, step=7)
    wait_until(lambda: noted(sweep)["trial"].records == 12)
    sink.pattern = "."
    assert recorder.close(30) == 0
    assert noted(sweep) == {} and sink.heard[-1] is None
    assert [waits.records for waits in sink.heard[:-1] if waits][-1] == 12


def test_a_store_that_hangs_is_told_of_by_the_next_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_SECONDS", 0.05)
    sweep, release = Folder(str(tmp_path)), threading.Event()

    class Hanging(Flaky):
        def send(self, records: Sequence[Record]) -> None:
            release.wait(300)

    recorder = Recorder(sweep / "trial", Hanging("x"))
    recorder.state("running")
    assert noted(sweep) == {}  # no longer than a store may take
    time.sleep(0.1)
    recorder.metrics({"loss": 0.1}, step=1)
    assert (noted(sweep)["trial"].records, noted(sweep)["trial"].reason) == (2, "")
    release.set()
    assert recorder.close(30) == 0
    assert noted(sweep) == {}


def test_what_is_never_sent_stays_told_until_another_attempt_sends_it(tmp_path: Path) -> None:
    """Also without a wait: the end of a trial is the last time that anybody can tell."""
    sweep = Folder(str(tmp_path))
    recorder = Recorder(sweep / "trial", Flaky("x"))
    fill(recorder, epochs=1)
    assert recorder.close(0.1) == 5
    assert noted(sweep)["trial"].records == 5
    assert Recorder(sweep / "trial", Flaky(".")).close(30) == 0
    assert noted(sweep) == {}


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
