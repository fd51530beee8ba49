"""The fault points themselves: a fault happens once over all processes, as it says, and is logged."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from chaos_faults import DRIVER, WORKER, drawn, outcomes

from workers import faults
from workers.faults import Fault
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
    points = {kind.point for kind in (*WORKER, *DRIVER)}
    assert [point for point in sorted(points) if f'"{point}"' not in source] == []


def test_faults_are_a_function_of_the_seed() -> None:
    assert drawn(3) == drawn(3) != drawn(4)


def test_what_a_fault_cost_is_read_from_the_events() -> None:
    """A worker that dies after 7 batches of 5 an epoch and goes on from the first epoch's end: two batches more."""

    def event(time: float, pid: int, attempt: str, step: int) -> dict[str, Any]:
        shared = {"event": "step", "trial": "t", "driver": 0, "of_epoch": 5}
        return shared | {"time": time, "pid": pid, "attempt": attempt, "step": step}

    fault = {"point": "train/batch", "action": "kill", "of": "*", "pid": 8, "time": 7.5}
    events = [event(step, 8, "first", step) for step in range(1, 8)]
    events += [{"event": "fault"} | fault]
    events += [event(10 + step, 9, "second", step) for step in range(6, 11)]
    (found,) = outcomes([fault], events)
    assert (found.effect, found.seconds, found.batches, found.epochs) == ("dies", 17 - 7.5, 2, 0.4)
