"""What `flatsweep doctor` finds on this machine: real stores, folders, locks and processes; broken ones too."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.doctor import clocks, data, gpu, orphans, storage, tracking, versions
from orchestrator.doctor.finding import Finding, Level, Question
from orchestrator.doctor.probing import Check, ask
from orchestrator.driver import driver_lock
from orchestrator.errors import UserError
from orchestrator.ray_session import SCRATCH_NOTE
from orchestrator.serving import probe
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from workers import layout
from workers.journal import Journal, Record
from workers.storage import Folder

TEXT = "name: x\ntraining: {epochs: 3}\ngrid: {methods: [at], seeds: [0, 1, 2, 3]}\n"
OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "s.yaml").write_text(TEXT)
    return load_sweep_file(tmp_path / "s.yaml").sweep


def about(sweep: Sweep, tmp_path: Path, **more: str) -> Question:
    return Question(sweep, None, tracking_uri(sweep), sweep.storage, str(tmp_path / "scratch"), **more)


def one(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


# ---- a process of its own -------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where somebody takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    kept.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1]
        for connection in kept:
            connection.close()


def test_a_check_that_hangs_is_killed(silent: int, sweep: Sweep, tmp_path: Path) -> None:
    question = replace(about(sweep, tmp_path), address=f"127.0.0.1:{silent}", sweep=None)
    found = one(ask(Check("ray", "cluster", 4.0), question))
    assert (found.check, found.level, found.what) == ("ray", PROBLEM, "no answer within 4 s")
    assert found.mend


def test_a_check_that_breaks_is_a_problem(sweep: Sweep, tmp_path: Path) -> None:
    found = one(ask(Check("odd", "no_such_module", 60.0), about(sweep, tmp_path)))
    assert found.level is PROBLEM and "No module named 'orchestrator.doctor.no_such_module'" in found.what


def test_what_libraries_print_does_not_disturb(sweep: Sweep, tmp_path: Path) -> None:
    question = about(sweep, tmp_path)
    assert Question.unpacked(question.packed()) == question
    assert ask(Check("data", "data", 60.0), question) == data.findings(question)


# ---- versions, GPU, data --------------------------------------------------------------------------------------------


def test_versions_as_they_should_be() -> None:
    found = versions.findings(Question())
    assert [finding.level for finding in found] == [OK] * len(found)
    assert [finding.what.split()[0] for finding in found[:5]] == ["python", "flatsweep", "torch", "ray", "mlflow"]


def test_versions_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["mlflow<2", "no-such-thing>=1", "numpy>=1", "pytest>=99; extra == 'dev'", "torch>=0.1"]
    monkeypatch.setattr(versions, "requires", lambda _: wanted)
    monkeypatch.setattr(versions, "metadata", lambda _: {"Requires-Python": ">=3.99"})
    found = {finding.what.split()[0]: finding for finding in versions.findings(Question())}
    assert found["python"].level is PROBLEM and "wanted: >=3.99" in found["python"].what
    assert found["mlflow"].level is PROBLEM and found["mlflow"].mend == "pip install 'mlflow<2'"
    assert found["no-such-thing"].level is PROBLEM and "not installed" in found["no-such-thing"].what
    assert found["torch"].level is OK and found["1"].what == "1 other packages are as wanted"
    assert "pytest" not in found and "numpy" not in found


SMI = "| NVIDIA-SMI 535.10   Driver Version: 535.104.05   CUDA Version: {} |"


@pytest.mark.parametrize(
    ("cuda", "built_for", "said"),
    [
        ("12.2", "13.0", "goes up to CUDA 12.2, and torch was built for CUDA 13.0"),
        ("12.10", "12.8", "sees no GPU"),
        ("12.2", None, "this torch was built without CUDA"),
    ],
)
def test_a_gpu_that_torch_does_not_see(
    cuda: str, built_for: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: Sweep
) -> None:
    import torch

    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{SMI.format(cuda)}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    found = one(gpu.findings(about(sweep, tmp_path)))
    assert found.level is WARNING and said in found.what and "535.104.05" in found.what and found.mend
    wants = sweep.model_copy(update={"resources": sweep.resources.model_copy(update={"gpu": 1})})
    assert one(gpu.findings(about(wants, tmp_path))).level is PROBLEM


def test_no_gpu(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert one(gpu.findings(Question())).level is OK
    wants = sweep.model_copy(update={"resources": sweep.resources.model_copy(update={"gpu": 0.5})})
    found = one(gpu.findings(about(wants, tmp_path)))
    assert found.level is PROBLEM and "a trial wants 0.5" in found.what
    elsewhere = replace(about(wants, tmp_path), address="10.0.0.5:6379")
    assert one(gpu.findings(elsewhere)).level is OK, "the cluster has the GPUs"


def test_data_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TEXT + "data: {name: npz, path: nothing.npz}\n")
    found = one(data.findings(about(load_sweep_file(tmp_path / "s.yaml").sweep, tmp_path)))
    assert found.level is PROBLEM and "nothing.npz" in found.what


# ---- the tracking store ---------------------------------------------------------------------------------------------


def rows(file: Path) -> dict[str, int]:
    with sqlite3.connect(file) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: database.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_is_written_and_nothing_is_left(sweep: Sweep, tmp_path: Path) -> None:
    question = about(sweep, tmp_path)
    found = one(tracking.findings(question))
    assert found.level is OK and "is not made yet" in found.what
    assert not Path(sweep.storage).exists()
    store = Store.of(sweep)
    before = rows(Path(sweep.storage) / "mlflow.db")
    found = one(tracking.findings(question))
    assert found.level is OK and "deleted for good" in found.what
    assert rows(Path(sweep.storage) / "mlflow.db") == before, "an experiment of its own, and gone again"
    store.prepare()
    parent = store.open_parent(sweep, TEXT, "")
    before, there = rows(Path(sweep.storage) / "mlflow.db"), files(Path(sweep.storage))
    assert one(tracking.findings(question)).level is OK
    assert rows(Path(sweep.storage) / "mlflow.db") == before and files(Path(sweep.storage)) == there
    assert store.parent_run("x") == parent


@pytest.mark.slow  # SQLite and MLflow wait for the other program
def test_a_store_that_cannot_be_written(sweep: Sweep, tmp_path: Path) -> None:
    """Locked by another program: SQLite waits for a few seconds."""
    Store.of(sweep).prepare()
    with sqlite3.connect(Path(sweep.storage) / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = one(ask(Check("tracking", "tracking", 100.0), about(sweep, tmp_path)))
    assert found.level is PROBLEM and ("locked" in found.what or "no answer within" in found.what)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///somewhere", "no longer writes to plain folders"),
        ("http://127.0.0.1:9", "no answer from the tracking server http://127.0.0.1:9"),
        ("http://user:secret@127.0.0.1:9", "no answer from the tracking server http://user:***@127.0.0.1:9"),
        ("http://no-such-host.invalid:5000", "no answer from the tracking server"),
    ],
)
def test_a_store_that_is_not_there(uri: str, said: str) -> None:
    found = one(tracking.findings(Question(tracking_uri=uri)))
    assert found.level is PROBLEM and said in found.what and found.mend and "secret" not in found.what + found.mend


def test_a_file_that_is_no_store(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_text("hello")
    found = one(tracking.findings(about(sweep, tmp_path)))
    assert found.level is PROBLEM and "is not an SQLite file" in found.what and "flatsweep sync" in found.mend


def test_a_server_that_never_answers(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    found = one(tracking.findings(Question(tracking_uri=f"http://127.0.0.1:{silent}")))
    assert found.level is PROBLEM and "none within 1 s" in found.what
    monkeypatch.setattr(clocks, "ANSWER_SECONDS", 0.5)
    assert one(clocks.findings(Question(tracking_uri=f"http://127.0.0.1:{silent}"))).level is WARNING


def test_a_ray_that_does_not_come_up(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets' paths may not be longer than the system allows."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    question = replace(about(sweep, tmp_path), scratch=str(tmp_path / ("long" * 30)))
    found = one(ask(Check("ray", "cluster", 100.0), question))
    assert found.level is PROBLEM and "no local Ray" in found.what and "path length" in found.what and found.mend


# ---- storage and clocks ---------------------------------------------------------------------------------------------


def test_a_storage_that_works(sweep: Sweep, tmp_path: Path) -> None:
    before = files(tmp_path)
    works, room = storage.findings(about(sweep, tmp_path))
    assert (works.level, room.level) == (OK, OK) and "no trial tells yet what one needs" in room.what
    assert files(tmp_path) == before


def test_room_is_predicted_from_trained_trials(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = sweep.trials()[0]
    folder = Folder(sweep.storage) / "x" / trial.trial_id
    folder.write(layout.TRIAL, b"{}")
    (folder / layout.CHECKPOINTS).write(layout.checkpoint_name(3, 0, "0" * 16), b"x" * 3_000_000)
    found = storage.findings(about(sweep, tmp_path))[1]
    assert found.level is OK and "3 trials to come need about 8.58 MiB (2.86 MiB each)" in found.what
    for free, level in ((1, PROBLEM), (9_000_007, WARNING), (18_000_013, OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert storage.findings(about(sweep, tmp_path))[1].level is level


def test_a_storage_without_locks(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network drive whose locks are each machine's own: the other process is let in."""
    monkeypatch.setattr(storage, "TAKES_LOCK", "import sys; sys.exit(3)")
    found = one([finding for finding in storage.findings(about(sweep, tmp_path)) if finding.level is PROBLEM])
    assert "two processes can hold a lock" in found.what


def test_a_storage_that_cannot_be_written(sweep: Sweep, tmp_path: Path) -> None:
    sweep = sweep.model_copy(update={"storage": "/proc/self"})  # refuses root too
    found = one(storage.findings(about(sweep, tmp_path)))
    assert found.level is PROBLEM and "cannot work in /proc/self" in found.what


@pytest.mark.parametrize(
    ("seconds", "level", "said"),
    [(0.9, OK, "agrees"), (-4.0, OK, "agrees"), (60.0, WARNING, "60 s ahead of"), (-3600.0, PROBLEM, "3600 s behind")],
)
def test_clocks(seconds: float, level: Level, said: str) -> None:
    found = clocks.skew("it", seconds)
    assert found.level is level and said in found.what and bool(found.mend) is (level is not OK)


def test_the_storages_clock(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(clocks.findings(about(sweep, tmp_path))).level is OK
    now = time.time()
    monkeypatch.setattr(clocks, "time", SimpleNamespace(time=lambda: now + 100))
    found = one(clocks.findings(about(sweep, tmp_path)))
    assert found.level is WARNING and "100 s behind" in found.what
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


# ---- what is left ---------------------------------------------------------------------------------------------------


@pytest.fixture
def left(sweep: Sweep, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """After a driver that was killed: a trial RUNNING, one that waits, a folder without run, a run without folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where drivers make their scratch folders
    Path(sweep.storage).mkdir()
    shutil.copy(empty_store, sweep.storage)
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, TEXT, "")
    running, waiting, bare, lone = sweep.trials()
    root = Folder(sweep.storage) / "x"
    states = ((running, "running"), (waiting, "pending"), (bare, "finished"))
    for trial, state in states:
        run_id = store.create_trial_run(trial, sweep.evaluation, "x", parent, "")
        store.set_state(run_id, state)
    for trial in (running, lone):
        (root / trial.trial_id).write(layout.TRIAL, json.dumps(trial.model_dump(mode="json")).encode())
        Journal(root / trial.trial_id).add([Record("state", "state", text="running")])
    (root / running.trial_id / layout.MEASURES).write(f".r.json.{'0' * 32}.part", b"half")
    scratch = tmp_path / "flatsweep-dead"
    (scratch / "ray").mkdir(parents=True)
    root.write(SCRATCH_NOTE, str(scratch).encode())
    return sweep


def test_what_a_dead_driver_left(left: Sweep, tmp_path: Path) -> None:
    running, waiting, bare, lone = (trial.trial_id for trial in left.trials())
    before = files(tmp_path)
    found = orphans.findings(about(left, tmp_path))
    said = [(finding.level, finding.what) for finding in found]
    assert said == [
        (PROBLEM, f"trial {running}: RUNNING, while no driver and no worker is there"),
        (WARNING, f"trial {waiting}: SCHEDULED, while no driver is there"),
        (PROBLEM, "the sweep's own run says RUNNING, while no driver is there"),
        (WARNING, f"trial {lone}: a folder in the storage, and no run"),
        (WARNING, f"trial {bare}: a run, and no folder in the storage: checkpoints and results are gone"),
        (WARNING, f"a driver that died left its note, and the scratch folder {tmp_path}/flatsweep-dead"),
        (WARNING, "1 half-written files lie in the folders of 'x'"),
    ]
    assert all(finding.mend for finding in found)
    assert {path for path in files(tmp_path) if not path.endswith(".lock")} == set(before), "it only looks"


def test_it_is_mended(left: Sweep, tmp_path: Path) -> None:
    running, waiting, bare, _ = (trial.trial_id for trial in left.trials())
    done = orphans.mend(left)
    assert [line.split()[0] for line in done] == ["closed", "closed", "removed", "removed"]
    runs = {run.trial_id: (run.status, run.state) for run in Store.of(left).trial_runs("x")}
    assert runs == {
        running: ("KILLED", "interrupted"), waiting: ("SCHEDULED", "pending"), bare: ("FINISHED", "finished")
    }  # fmt: skip
    assert not (tmp_path / "flatsweep-dead").exists()
    assert (
        not list((Path(left.storage) / "x").rglob("*.part")) and not (Path(left.storage) / "x" / SCRATCH_NOTE).exists()
    )
    levels = [finding.level for finding in orphans.findings(about(left, tmp_path))]
    assert levels == [WARNING] * 3, "what waits, and what is lone"
    assert orphans.mend(left) == []


def test_what_is_alive_is_let_alone(left: Sweep, tmp_path: Path) -> None:
    with driver_lock(left):
        found = one(orphans.findings(about(left, tmp_path)))
        assert found.level is OK and "a driver runs 'x'" in found.what
        with pytest.raises(UserError, match="is being run"):
            orphans.mend(left)
    running = left.trials()[0].trial_id
    code = f"from workers.storage import Folder\nwith Folder('{left.storage}/x/{running}').lock(1): input(print())"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "\n"
        said = [finding.what for finding in orphans.findings(about(left, tmp_path))]
        worker.communicate("\n")
    assert said[0] == f"trial {running}: still worked on, though the driver is gone: the worker ends by itself"
    assert not any("no worker is there" in line for line in said)


def test_two_runs_of_one_trial(left: Sweep, tmp_path: Path) -> None:
    store = Store.of(left)
    waiting = left.trials()[1]
    store.create_trial_run(waiting, left.evaluation, "x", store.parent_run("x") or "", "")
    said = [finding.what for finding in orphans.findings(about(left, tmp_path))]
    assert f"trial {waiting.trial_id}: several runs; the newest counts" in said


def test_a_sweep_that_nobody_submitted(sweep: Sweep, tmp_path: Path) -> None:
    found = one(orphans.findings(about(sweep, tmp_path)))
    assert (found.level, found.what) == (OK, "0 runs and 0 folders, and nothing is left over")
    assert orphans.mend(sweep) == []
    assert not Path(sweep.storage).exists()
