"""Whatever is wrong with what the user gives: one message, exit code 2, nothing started, nothing written."""

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import pytest

from orchestrator import cli
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import value_keys
from orchestrator.tracking import Store

GOOD = "name: x\ngrid:\n  methods: [at]\n  seeds: [0]\n"  # lines 1 to 4
PROFILED = GOOD + "profiles:\n  small:\n    training:\n      epochs: 0\n  other: {}\n"  # lines 5 to 9
NPZ = GOOD + "data: {name: npz, path: d.npz}\n"


@dataclass(frozen=True)
class Case:
    """A command in a folder with `s.yaml`; `{port}` in its words is one where nobody listens."""

    words: str
    phrase: str
    text: str = GOOD
    before: Callable[[Path], None] | None = None
    line: int | None = None
    """Of `s.yaml`, that the message names."""


def arrays(path: Path, **changes: np.ndarray) -> None:
    good = {
        "x_train": np.zeros((4, 8, 8, 1), np.uint8),
        "y_train": np.array([0, 1, 2, 1]),
        "x_test": np.zeros((2, 8, 8, 1), np.uint8),
        "y_test": np.array([0, 1]),
    }
    kept = {key: value for key, value in (good | changes).items() if value is not None}
    np.savez(path / "d.npz", **kept)


def garbage(folder: Path) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "mlflow.db").write_bytes(b"this is no database, whatever its name says")


def file(name: str, content: bytes = b"") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def folder(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).mkdir(parents=True)


def grid(methods: str = "[at]", rest: str = "") -> str:
    return f"name: x\ngrid:\n  methods: {methods}\n  seeds: [0]\n{rest}"


CASES = {
    # the sweep file
    "unknown key": Case("submit s.yaml", "did you mean 'training'?", GOOD + "trainig: {}\n", line=5),
    "wrong type": Case("submit s.yaml", "expected a whole number", grid(rest="training: {epochs: many}\n"), line=5),
    "empty grid": Case("submit s.yaml", "the list is empty", grid("[]"), line=3),
    "duplicate cells": Case("submit s.yaml", "is in the grid already", grid("[at, at]"), line=3),
    "eps out of range": Case(
        "submit s.yaml", "eps 8 is out of range", grid(rest="training: {attack: {eps: 8}}\n"), line=5
    ),
    "negative seed": Case(
        "plan s.yaml", "at least 0 (got -1)", "name: x\ngrid:\n  methods: [at]\n  seeds: [-1]\n", line=4
    ),
    "part of a second GPU": Case("plan s.yaml", "1.5 is neither a fraction", GOOD + "resources: {gpu: 1.5}\n", line=5),
    "no time": Case("submit s.yaml --max-hours 0", "--max-hours 0: expected hours above 0"),
    "syntax": Case("plan s.yaml", "not valid YAML", "name: x\ngrid: {methods: [at\n", line=3),
    "duplicate key": Case("submit s.yaml", "'name' is given twice, first on line 1", GOOD + "name: y\n", line=5),
    "name is a path": Case("submit s.yaml", "'../y' is not a plain name", GOOD.replace("x", "../y"), line=1),
    "unknown method": Case("rerun s.yaml", "did you mean 'trades'?", grid("[tradse]"), line=3),
    "empty file": Case("submit s.yaml", "the file is empty", "", line=1),
    "no such file": Case("submit none.yaml", "none.yaml: no such file; `flatsweep init` writes one"),
    "a folder": Case("submit sub.yaml", "sub.yaml: this is a folder", before=folder("sub.yaml")),
    "no sweep of that name": Case("status digits", "no sweep called 'digits' in runs: nothing was submitted there"),
    "path as sweep name": Case("submit ../digits", "no sweep called '../digits'"),
    # profiles
    "unknown profile": Case("submit s.yaml --profile smal", "did you mean 'small'?", PROFILED, line=5),
    "no profiles": Case("status s.yaml --profile small", "'small': the file has no profiles", line=1),
    "value of a profile": Case(
        "plan s.yaml --profile small", "profiles.small.training.epochs: must be at least 1", PROFILED, line=8
    ),
    "profile of a recorded sweep": Case("status x --profile small", "'x' is no sweep file, and only a file has prof"),
    "form of a profile": Case(
        "plan s.yaml", "expected a mapping of what it changes", GOOD + "profiles: {a: 1}\n", line=5
    ),
    "profile before submit": Case(
        "status s.yaml --profile other", "`flatsweep submit s.yaml --profile other` starts it", PROFILED
    ),
    "profile without a name": Case("plan s.yaml --profile", "requires an argument", PROFILED),
    # data
    "no mnist folder": Case("submit s.yaml", "data: root: there is no folder", GOOD + "data: mnist\n"),
    "no npz": Case("submit s.yaml", "d.npz", NPZ),
    "corrupt npz": Case("submit s.yaml", "is not a readable .npz file", NPZ, file("d.npz", b"PK\x03\x04 rubbish")),
    "npz labels": Case("submit s.yaml", "y_test", NPZ, lambda at: arrays(at, y_test=np.array([0, 7]))),
    "npz dtype": Case(
        "submit s.yaml", "x_train", NPZ, lambda at: arrays(at, x_train=np.zeros((4, 8, 8, 1), np.float32))
    ),
    "npz lacks": Case("submit s.yaml", "lacks y_test", NPZ, lambda at: arrays(at, y_test=None)),
    # tracking store
    "no tracking server": Case(
        "submit s.yaml --tracking-uri http://127.0.0.1:{port}", "no answer from the tracking server http://127.0.0.1:"
    ),
    "no tracking server in the file": Case(
        "submit s.yaml", "no answer from the tracking server", GOOD + "tracking: {uri: 'http://127.0.0.1:1'}\n"
    ),
    "file store": Case("submit s.yaml --tracking-uri file:///tmp/mlruns", "MLflow no longer writes to plain folders"),
    "file store path": Case("submit s.yaml --tracking-uri mlruns", "MLflow no longer writes to plain folders"),
    "no database": Case("submit s.yaml", "mlflow.db is not an SQLite file", before=garbage),
    "no database, status": Case("status s.yaml", "mlflow.db is not an SQLite file", before=garbage),
    "database is a folder": Case("submit s.yaml", "is a folder, not an SQLite file", before=folder("runs/mlflow.db")),
    # Ray
    "no Ray": Case("submit s.yaml --address 127.0.0.1:{port}", "address: no answer from Ray at 127.0.0.1:"),
    "Ray by http": Case("submit s.yaml --address http://127.0.0.1:{port}", "every node must reach the store"),
    "Ray without port": Case("submit s.yaml --address head", "is no address of a Ray cluster"),
    "Ray with a port that is none": Case("submit s.yaml --address head:x", "is no address of a Ray cluster"),
    # storage
    "storage without permission": Case("submit s.yaml --storage /proc/x", "storage: no permission to write in /proc"),
    "storage is a file": Case("submit s.yaml", "runs is not a folder", before=file("runs", b"x")),
    "storage under a file": Case("submit s.yaml --storage s.yaml/runs", "s.yaml is not a folder"),
    # before any submit
    "status before submit": Case("status s.yaml", "`flatsweep submit s.yaml` starts it"),
    "no database, plan": Case("plan s.yaml", "mlflow.db is not an SQLite file", before=garbage),
    "export before submit": Case("export s.yaml -o t.csv", "nothing is recorded of sweep 'x'"),
    "correlate before submit": Case("correlate s.yaml", "nothing is recorded of sweep 'x'"),
    "ui before submit": Case("ui s.yaml", "nothing is recorded of sweep 'x'"),
    # options
    "init over a file": Case("init s.yaml", "s.yaml exists already; --force overwrites it"),
    "unknown recipe": Case("init --recipe stuz21", "there is no recipe 'stuz21'; did you mean 'stutz21'?"),
    "init over a recipe": Case("init s.yaml --recipe stutz21", "s.yaml exists already; --force overwrites it"),
    "init nowhere": Case("init none/s.yaml", "cannot write none/s.yaml: No such file"),
    "unknown format": Case("export s.yaml --format xlsx", "'xlsx' is not one of 'csv', 'parquet', 'json'"),
    "unknown class": Case("rerun s.yaml --error-class oom", "'oom' is not one of 'diverged'"),
    "port 0": Case("ui s.yaml --port 0", "Invalid value for '--port'"),
    "unknown option": Case("submit s.yaml --jobs 3", "No such option: --jobs"),
    "unknown command": Case("sumbit s.yaml", "No such command 'sumbit'"),
    "too many words": Case("submit s.yaml t.yaml", "unexpected extra argument"),
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the test's own folder, with no server named, and with an import of Ray failing loudly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["flatsweep", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def tree(top: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder but the driver's lock, which the system needs to tell drivers apart, and copies of runs."""
    paths = [path for path in top.rglob("*") if not path.name.startswith(".driver.lock") and "cache" not in path.parts]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns * path.is_file()) for path in paths}


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that must be refused; nothing may have been written in the working folder."""
    before = tree(Path.cwd())
    code = run(monkeypatch, *words)
    said = capsys.readouterr()
    assert code == 2, (said.out, said.err)
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.lower().count("error: ") == 1
    assert tree(Path.cwd()) == before
    return said.err


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused(
    case: Case, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(case.text)
    if case.before:
        case.before(tmp_path)
    message = refused(monkeypatch, capsys, *case.words.format(port=port).split())
    assert case.phrase in " ".join(message.split())
    if case.line:
        assert message.startswith(f"error: s.yaml:{case.line}:")


def test_there_are_enough_kinds() -> None:
    assert len(CASES) >= 25


def test_tracking_server_of_the_environment(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    assert f"no answer from the tracking server http://127.0.0.1:{port}" in refused(
        monkeypatch, capsys, "submit", "s.yaml"
    )


def test_ray_address_of_the_environment(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert f"no answer from Ray at 127.0.0.1:{port}" in refused(monkeypatch, capsys, "submit", "s.yaml")


def test_every_problem_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(GOOD + "data: mnist\ntracking: {uri: mlruns}\n")
    message = refused(monkeypatch, capsys, "submit", "s.yaml", "--storage", "/proc/x")
    assert all(word in message for word in ("data: root", "storage: no permission", "tracking: MLflow"))
    assert len(message.splitlines()) == 3


def test_two_submits_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / ".driver.lock.holder").write_text("process 17 on somewhere")
    with filelock.FileLock(tmp_path / "runs" / "x" / ".driver.lock"):
        message = refused(monkeypatch, capsys, "submit", "s.yaml")
    assert "sweep 'x' is being run by process 17 on somewhere" in message


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose first trial is recorded as finished, the second as pending; nothing was trained."""
    top = tmp_path_factory.mktemp("recorded")
    (top / "s.yaml").write_text(GOOD.replace("[0]", "[0, 1]"))
    sweep = load_sweep_file(top / "s.yaml").sweep
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, GOOD, "")
    ids = [store.create_trial_run(trial, sweep.evaluation, "x", parent, "") for trial in sweep.trials()]
    keys = value_keys(sweep.evaluation.measures)
    for key in keys:
        store.client.log_metric(ids[0], key, 0.5, step=20)
    store.set_state(ids[0], "finished", {"evaluation_id": sweep.evaluation.evaluation_id})
    store.close_parent(parent, "interrupted")
    (top / "runs" / "x").mkdir()
    return top


ON_RECORD = {
    "unknown measure": ("correlate s.yaml --measure flatnes", "flatnes"),
    "unknown target": ("correlate s.yaml --target robust_loss_gab", "did you mean 'robust_loss_gap'?"),
    "condition on no column": ("correlate s.yaml --where method_nam=='at'", "did you mean 'method_name'?"),
    "condition that runs": ("correlate s.yaml --where seed.map(print)==1", "'seed.map(print)' is not allowed"),
    "condition that nobody meets": ("correlate s.yaml --where seed==7", "no network of a finished trial is like that"),
    "groups of no column": ("correlate s.yaml --by metod", "did you mean 'method'?"),
    "figure of pixels": ("correlate s.yaml --figure f.png", "f.png: a vector figure ends in .pdf or .svg"),
    "figure under a file": ("correlate s.yaml --figure s.yaml/f.pdf", "cannot write s.yaml/f.pdf"),
    "two formats": ("correlate s.yaml --json --format csv", "--json and --format csv are two formats"),
    "unknown format of a correlation": ("correlate s.yaml --format html", "'html' is not one of 'table', 'json'"),
    "no effective pairs": ("correlate s.yaml --min-effective 0", "min_effective is 0: give a number above 0"),
    "figures under a file": ("correlate s.yaml --figures s.yaml/figures", "cannot write in s.yaml/figures"),
    "export under a file": ("export s.yaml -o s.yaml/t.csv", "cannot write s.yaml/t.csv"),
    "export parquet under a file": ("export s.yaml -o s.yaml/t.parquet", "cannot write s.yaml/t.parquet"),
    "export to no folder": ("export s.yaml -o none/t.csv", "cannot write none/t.csv"),
    "unknown trial": ("rerun s.yaml --trial zz", "no trial of 'x' has an id that begins with zz"),
}


@pytest.mark.parametrize("name", ON_RECORD)
def test_refused_with_something_on_record(
    name: str, recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, phrase = ON_RECORD[name]
    monkeypatch.chdir(recorded)
    assert phrase in refused(monkeypatch, capsys, *words.split())


@pytest.mark.parametrize("command", ["plan", "submit", "rerun", "status", "export", "correlate", "compare", "ui"])
def test_every_command_knows_profiles(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(PROFILED)
    words = [command, "s.yaml", *(["other.yaml"] if command == "compare" else [])]
    message = refused(monkeypatch, capsys, *words, "--profile", "small")
    assert message.startswith("error: s.yaml:8: profiles.small.training.epochs: must be at least 1 (got 0)")
