"""The fault points themselves: a fault happens once over all processes, as it says, and is logged."""

import errno
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos_faults import CLOCKS, DRIVER, STORAGE, WORKER, drawn
from chaos_outcomes import in_order, outcomes, repeated_too_much, wrong_failures

from workers import faults
from workers.failures import ErrorClass, classify
from workers.faults import Fault
from workers.journal import Journal, Record
from workers.storage import Folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def armed(tmp_path: Path) -> Any:
    def arm(*wanted: Fault) -> Path:
        file = tmp_path / "faults.json"
        file.write_text(json.dumps([asdict(fault) for fault in wanted]))
        faults.arm(file)
        return file

    yield arm
    faults.arm(None)


def log(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{file}{faults.LOG}").read_text().splitlines()]


def child(code: str, file: Path) -> int:
    environment = os.environ | {faults.VARIABLE: str(file), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode


def test_off_nothing_happens(tmp_path: Path) -> None:
    faults.point("a")
    Folder(str(tmp_path)).write("b", b"content")
    assert Folder(str(tmp_path)).read("b") == b"content"


@pytest.mark.parametrize(("action", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_a_write_that_fails_leaves_the_old_content(armed: Any, tmp_path: Path, action: str, number: int) -> None:
    folder = Folder(str(tmp_path / "f"))
    folder.write("x.pt", b"old")
    file = armed(Fault("file/half", action, "*/x.pt", hit=2))
    folder.write("other", b"first")  # is not meant
    folder.write("x.pt", b"older")  # the first time is not meant
    with pytest.raises(OSError) as raised:
        folder.write("x.pt", b"new content")
    assert raised.value.errno == number
    assert folder.read("x.pt") == b"older"
    assert folder.names() == ["other", "x.pt"]
    folder.write("x.pt", b"newest")  # it happens once
    assert folder.read("x.pt") == b"newest"
    (line,) = log(file)
    assert (line["point"], line["about"], line["pid"]) == ("file/half", f"{tmp_path}/f/x.pt", os.getpid())


def test_a_disk_that_is_read_only_for_a_while(armed: Any, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "f"))
    file = armed(Fault("*/half", "erofs", seconds=0.4))
    for write in (folder.write, folder.append, folder.write):
        with pytest.raises(OSError) as raised:
            write("x", b"content")
        assert raised.value.errno == errno.EROFS
    time.sleep(0.5)
    folder.write("x", b"content")
    assert folder.read("x") == b"content"
    assert len(log(file)) == 1  # it is one fault


def test_a_share_of_all_writes_fails(armed: Any, tmp_path: Path) -> None:
    file = armed(Fault("*/half", "eio", share=0.2))
    failed = 0
    for _ in range(200):
        try:
            Folder(str(tmp_path)).append("x", b"line\n")
        except OSError as error:
            failed += error.errno == errno.EIO
    assert 15 < failed < 70  # 40 expected, 5.7 standard deviation
    assert failed == len(log(file))


def test_a_clock_that_jumps(armed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", time.time)  # so that it is put back
    armed(Fault("a", "clock", hit=2, seconds=-7200))
    faults.point("a")
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 60
    faults.point("a")
    assert abs(time.time() + 7200 - time.clock_gettime(time.CLOCK_REALTIME)) < 60


def test_what_a_point_leaves_to_its_caller(armed: Any) -> None:
    armed(Fault("step", "nan", "t1", hit=2), Fault("step", "oom", "t2"))
    assert [faults.point("step", of) for of in ("t1", "t3", "t1", "t1")] == ["", "", "nan", ""]
    with pytest.raises(torch.OutOfMemoryError) as raised:
        faults.point("step", "t2")
    assert classify(raised.value) is ErrorClass.OUT_OF_MEMORY


def test_half_a_line_that_could_not_be_written_does_not_spoil_the_next(armed: Any, tmp_path: Path) -> None:
    armed(Fault("append/half", "enospc", hit=2))
    journal = Journal(Folder(str(tmp_path)))
    journal.add([Record("tag", "a", text="1")])
    with pytest.raises(OSError, match="No space"):
        journal.add([Record("tag", "b", text="2")])
    journal.add([Record("tag", "error_class", text="storage_unavailable"), Record("state", "state", text="failed")])
    assert [record.key for record in Journal(Folder(str(tmp_path))).records] == ["a", "error_class", "state"]
    assert (tmp_path / "journal.jsonl").read_bytes().count(b"\n") == 3


def test_half_of_the_bytes_are_there_when_the_writer_dies(armed: Any, tmp_path: Path) -> None:
    file = armed(Fault("append/half", "kill"))
    code = f"from workers.storage import Folder; Folder({str(tmp_path)!r}).append('j', b'0123456789')"
    assert child(code, file) == -signal.SIGKILL
    assert (tmp_path / "j").read_bytes() == b"01234"
    assert child(code, file) == 0  # not again in another process
    assert (tmp_path / "j").read_bytes() == b"012340123456789"
    assert len(log(file)) == 1


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM), ("exit", 1)])
def test_a_process_dies_later(armed: Any, action: str, code: int) -> None:
    file = armed(Fault("a", action, seconds=0.2))
    then = "from workers import faults; import time; faults.point('a'); print('goes on', flush=True); time.sleep(50)"
    assert child(then, file) == code
    assert [line["action"] for line in log(file)] == [action]


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault is called 'boom'; there are kill, term"):
        Fault("a", "boom")


def test_every_point_that_is_drawn_is_in_the_code() -> None:
    source = "".join(path.read_text() for part in ("workers", "orchestrator") for path in (ROOT / part).rglob("*.py"))
    named = re.findall(r'faults\.(?:point|write)\([^"]*"([^"]+)"', source)
    points = {kind.point for kind in (*WORKER, *DRIVER, *STORAGE, *CLOCKS)}
    assert [point for point in sorted(points) if not fnmatch.filter(named, point)] == []


def test_faults_are_a_function_of_the_seed() -> None:
    assert drawn(3) == drawn(3) != drawn(4)


def test_what_a_fault_cost_is_read_from_the_events() -> None:
    """A worker that dies after 7 batches of 5 an epoch and goes on from the first epoch's end: two batches more."""

    def event(time: float, pid: int, attempt: str, step: int) -> dict[str, Any]:
        shared = {"event": "step", "trial": "t", "driver": 0, "of_epoch": 5}
        return shared | {"time": time, "pid": pid, "attempt": attempt, "step": step}

    fault = {"point": "train/batch", "action": "kill", "of": "*", "pid": 8, "time": 7.5, "about": ""}
    events = [event(step, 8, "first", step) for step in range(1, 8)]
    events += [{"event": "fault"} | fault]
    events += [event(10 + step, 9, "second", step) for step in range(6, 11)]
    (found,) = outcomes([fault], events)
    assert (found.effect, found.seconds, found.epochs, found.most) == ("dies", 17 - 7.5, 0.4, 0.4)
    assert repeated_too_much([fault], events) == []
    events[-5:] = [event(11 + step, 9, "second", step) for step in range(1, 11)]
    assert repeated_too_much([fault], events) == ["t: 1.4 epochs were trained again, not 1 at most"]
    removed = fault | {"point": "outside", "of": "a trial's folder removed"}
    assert repeated_too_much([removed], events) == []
    # what was lost with the folder is not lost again by what comes later
    both = [removed, fault | {"time": 30.0, "pid": 9}]
    steps = [*events[:7], *events[8:11], *(event(31 + step, 10, "third", step) for step in (1, 2))]
    assert repeated_too_much(both, in_order(both, steps)) == []


def test_failures_that_nothing_explains_are_found() -> None:
    fault = {"point": "step", "action": "nan", "of": "*", "pid": 8, "time": 2.0, "about": "t"}
    begun = {"event": "begun", "trial": "t", "time": 1.0, "pid": 8, "driver": 0}
    failed = {"event": "failed", "trial_id": "t", "error_class": "diverged", "time": 3.0, "pid": 8}
    ended = {"event": "driver ended", "time": 4.0, "pid": 7, "driver": 0}
    assert wrong_failures([fault], [begun, failed, ended]) == []
    assert len(wrong_failures([fault], [begun, failed | {"trial_id": "u"}, ended])) == 1
    assert len(wrong_failures([fault], [begun, failed | {"error_class": "code_error"}, ended])) == 1
    again = begun | {"time": 2.5, "pid": 9}
    assert len(wrong_failures([fault], [begun, again, failed, ended])) == 1
    assert wrong_failures([fault], [begun, failed, ended, again | {"time": 5.0, "driver": 1}]) == []
    outlived = [begun, ended | {"time": 1.5}, again | {"driver": 1}, ended | {"driver": 1}]
    assert wrong_failures([fault], outlived) == [], "its worker died with its driver, before it could say so"
