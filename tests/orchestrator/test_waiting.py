"""What waits for what: in status, also while the store is away, and in the live view; and what was done twice."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from place import Place, epoch
from rich.console import Console

from orchestrator.cli import main
from orchestrator.driver import driver_lock
from orchestrator.errors import StoreError
from orchestrator.live import LiveView
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep
from orchestrator.status import sweep_status
from orchestrator.submit import close_orphans
from orchestrator.sync import sync
from orchestrator.tracking import Store
from orchestrator.waiting import Queue, trial_waits
from workers import unsent
from workers.journal import Journal, Record
from workers.repeats import FILE as PROGRESS
from workers.repeats import Repeats
from workers.sealed import sealed
from workers.storage import Folder
from workers.unsent import Unsent

AWAY = "http://127.0.0.1:9"
"""Where nothing listens."""
NOW_MS = 1_700_000_045_000
WAITS = Unsent(312, 1_700_000_000_000, "no route to host")


def test_all_that_waits_is_one_queue() -> None:
    queue = Queue.of([WAITS, Unsent(8, 1_700_000_040_000, "")], NOW_MS)
    assert queue == Queue(320, 2, 45.0, "no route to host")
    assert queue.sentence() == "MLflow unreachable for 45 s, 320 records of 2 trials queued: no route to host"
    assert Queue.of([], NOW_MS) is None
    later = Queue.of([Unsent(1, NOW_MS + 5000, "")], NOW_MS)  # clocks that disagree
    assert later and later.sentence() == "MLflow unreachable for 0 s, 1 records of 1 trial queued: no answer yet"


def test_each_trial_says_what_it_waits_for() -> None:
    teacher = {"methods": [{"name": "unlabeled", "over": "at"}], "seeds": [0]}
    data = {"name": "digits", "unlabeled": {"size": 50}}
    sweep = Sweep.model_validate({"name": "x", "data": data, "grid": teacher})
    (trial,) = sweep.trials()
    assert trial.teacher
    states = {"a": "running", "b": "pending", "c": "finished", "d": "failed", trial.trial_id: "pending"}
    assert trial_waits(sweep, states, {"a": WAITS, "c": WAITS}, alive=True, now_ms=NOW_MS) == {
        "a": "MLflow: 312 records, 45 s",
        "b": "a free place",
        "c": "MLflow: 312 records, 45 s",
        trial.trial_id: f"a free place, or its teacher {trial.teacher.trial_id}",
    }
    assert trial_waits(sweep, states, {}, alive=False, now_ms=NOW_MS) == {"a": "a driver: its own is gone"}


def begun(place: Place, number: int, *records: Record) -> str:
    """The folder of a trial, with such a journal, that a worker had."""
    trial = place.sweep.trials()[number]
    folder = place.folder(trial)
    folder.write("trial.json", trial.model_dump_json().encode())
    Journal(folder).add([Record("state", "state", text="running"), *records])
    return trial.trial_id


def test_status_without_a_store_is_what_the_storage_says(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = begun(place, 0, *epoch(1), *epoch(2), Record("metric", "robust_loss_gap", 0.25, 150))
    evaluation = place.sweep.evaluation.evaluation_id
    Journal(Folder(f"{place.sweep.storage}/x/{done}")).add(
        [Record("tag", "evaluation_id", text=evaluation), Record("state", "state", text="finished")]
    )
    going_on = begun(place, 1, *epoch(1), Record("tag", "attempt", text="3"))
    folder = Folder(f"{place.sweep.storage}/x/{going_on}")
    folder.write(PROGRESS, sealed({"epoch": 1, "seconds": 2.0, "repeated": 7.5}))
    unsent.note(folder, WAITS)
    file = load_sweep_file(place.base / "s.yaml")
    away = file.sweep.model_copy(update={"tracking": file.sweep.tracking.model_copy(update={"uri": AWAY})})
    monkeypatch.setattr(
        "sys.argv", ["flatsweep", "status", str(place.base / "s.yaml"), "--tracking-uri", AWAY, "--json"]
    )
    with driver_lock(place.sweep), pytest.raises(SystemExit) as end:
        capsys.readouterr()
        main()
    assert not end.value.code
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "no answer from the tracking server" in said["store_problem"]
    assert said["counts"] == {"finished": 1, "running": 1, "missing": 6} and said["driver_alive"]
    rows = {row["trial_id"]: row for row in said["trials"]}
    assert (rows[done]["robust_loss_gap"], rows[done]["train_loss"], rows[done]["waits_for"]) == (0.25, 1.0, "")
    assert rows[going_on]["waits_for"].startswith("MLflow: 312 records, ")
    assert (said["waiting"]["records"], said["waiting"]["trials"]) == (312, 1)
    assert said["repeated"] == {"seconds": 7.5, "restarts": 2, "trained_seconds": 0.0}
    with pytest.raises(StoreError, match="no answer"):  # nor is there anything in the storage
        nowhere = away.model_copy(update={"storage": str(place.base / "nowhere")})
        sweep_status(file.__class__(nowhere, file.text, file.path, None, ""), lambda: Store.of(nowhere), None, False)


def test_what_a_driver_or_a_sync_sends_waits_no_longer(place: Place) -> None:
    trial = place.sweep.trials()[0]
    run_id = place.new_run(trial)
    begun(place, 0, *epoch(1))
    root = Folder(f"{place.sweep.storage}/x")
    unsent.note(place.folder(trial), WAITS)
    assert unsent.noted(root)[trial.trial_id] == WAITS
    close_orphans(place.store, place.sweep)
    assert trial.trial_id not in unsent.noted(root) and place.run(run_id).state == "interrupted"
    unsent.note(place.folder(trial), WAITS)
    sync(load_sweep_file(place.base / "s.yaml"))
    assert trial.trial_id not in unsent.noted(root)


def test_a_note_that_is_damaged_says_nothing(tmp_path: Path) -> None:
    (tmp_path / unsent.FOLDER).mkdir()
    for number, content in enumerate((b"", b"{}", b'{"records": -1, "since_ms": 0, "reason": ""}')):
        (tmp_path / unsent.FOLDER / f"{number}.json").write_bytes(content)
    assert unsent.noted(Folder(str(tmp_path))) == {}


class Training:
    def __init__(self, epoch: int, seconds: float) -> None:
        self.epoch, self.seconds = epoch, seconds


LOST = {
    "in the running epoch": ((2, 5.0), (2, 0.0), 5.0),
    "since a checkpoint within it": ((2, 5.0), (2, 3.5), 1.5),
    "an epoch whose checkpoint was lost too": ((2, 5.0), (1, 0.0), 16.0),
    "nothing: the note is older than the checkpoint": ((1, 4.0), (2, 0.0), 0.0),
    "nothing: it was stopped in order": ((2, 3.5), (2, 3.5), 0.0),
}


@pytest.mark.parametrize("name", LOST)
def test_what_an_attempt_does_once_more(name: str, tmp_path: Path) -> None:
    """The first two epochs took 10 s and 11 s."""
    (epoch, seconds), restored, lost = LOST[name]
    folder = Folder(str(tmp_path))
    journal = Journal(folder)
    journal.add([Record("metric", "train/seconds", 9.0 + step, step) for step in (1, 2)])
    folder.jot(PROGRESS, sealed({"epoch": epoch, "seconds": seconds, "repeated": 0.25}))
    repeats = Repeats(folder, Training(*restored), journal)
    assert repeats.seconds == 0.25 + lost
    for _ in repeats.watched(_ for _ in range(2)):
        pass  # what was lost is noted, and is not lost again
    assert Repeats(folder, Training(*restored), journal).seconds == 0.25 + lost
    repeats.end()
    assert Repeats(folder, Training(*restored), journal).seconds == 0.0


def test_the_live_view_says_what_waits_and_when_it_is_sent() -> None:
    said = io.StringIO()
    view = LiveView({"a": "first", "b": "second", "c": "third"}, 0, Console(file=said, width=200))

    def result(name: str, **more: Any) -> None:
        shown = {"phase": "train", "epoch": 1, "epochs": 2, "fraction": 0.5, "unsent_records": 0}
        view.on_trial_result(0, [], name, shown | more)

    for name in ("a", "b"):
        view.on_trial_start(0, [], name)
    result("a")
    result("b", unsent_records=5, unsent_seconds=11.0, unsent_reason="status 500")
    result("a", unsent_records=2, unsent_seconds=10.0, unsent_reason="")
    result("b", unsent_records=9, unsent_seconds=20.0, unsent_reason="status 500")
    assert said.getvalue().count("waiting   MLflow unreachable") == 1
    assert "MLflow unreachable for 11 s, 5 records of 1 trial queued: status 500" in said.getvalue()
    assert "has taken all" not in said.getvalue()
    result("a")
    result("b")
    assert said.getvalue().count("MLflow has taken all records that were queued") == 1
    result("a", unsent_records=3, unsent_seconds=31.0, unsent_reason="gone", done=True, state="finished")
    assert "first: 3 records are in its journal only; the next submit sends them" in said.getvalue()
    assert "1 of 3 done, 1 waiting for a free place" in said.getvalue()
    assert said.getvalue().count("has taken all") == 1
