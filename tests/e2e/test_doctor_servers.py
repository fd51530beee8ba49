"""`flatsweep doctor` against real MLflow servers: one that knows its name, one with passwords, one that was killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sweeping import Place, environment, run_inside, wait_for
from test_tracking_server import answers, free_port

from orchestrator.doctor import clocks, tracking
from orchestrator.doctor.finding import Finding, Level, Question
from orchestrator.spec.loading import load_sweep_file
from orchestrator.tracking import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PASSWORD = "a long enough one"


def started(folder: Path, port: int, *words: str, **env: str) -> "subprocess.Popen[bytes]":
    words = ("server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--host", "127.0.0.1", *words)
    words += ("--artifacts-destination", str(folder / "served"), "--port", str(port), "--workers", "1")
    with (folder / "server.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log, stderr=log, env=environment(**env), cwd=folder, start_new_session=True,
        )  # fmt: skip


def stop(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Answers to 127.0.0.1 only, not to localhost."""
    port = free_port()
    process = started(tmp_path_factory.mktemp("plain"), port, "--allowed-hosts", f"127.0.0.1:{port}")
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow's server", 200)
    yield port, process
    if process.poll() is None:
        stop(process)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("guarded")
    secrets = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    process = started(folder, port, "--app-name", "basic-auth", **secrets)
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow's server with passwords", 200)
    yield f"http://127.0.0.1:{port}"
    stop(process)


def asked(uri: str, file: Path | None = None) -> Finding:
    sweep = load_sweep_file(file).sweep if file else None
    (found,) = tracking.findings(Question(sweep, tracking_uri=uri))
    return found


def test_a_password_is_asked_for(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    found = asked(guarded)
    assert found.level is Level.PROBLEM and "wants a user and a password" in found.what
    assert "MLFLOW_TRACKING_USERNAME" in found.what
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    found = asked(guarded)
    assert found.level is Level.PROBLEM and "does not accept user 'admin' with this password" in found.what
    assert "wrong" not in found.what + found.mend
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    found = asked(guarded)
    assert found.level is Level.OK and "written, read back and deleted" in found.what


def test_an_unknown_host_header(plain: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    port, _ = plain
    assert answers(f"http://localhost:{port}/health"), "which says that all is well"
    found = asked(f"http://localhost:{port}")
    assert found.level is Level.PROBLEM and "refuses to be called by this name" in found.what
    assert "--allowed-host" in found.what


def test_it_is_no_mlflow_server(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/"), "a web server", 30)
        found = asked(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
    assert found.level is Level.PROBLEM and (
        "is no MLflow server" in found.what or "a problem of its own" in found.what
    )


def runs(uri: str, experiment: str) -> tuple[int, int]:
    """How many runs are active, and how many deleted."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return 0, 0
    ids = [found.experiment_id]
    views = ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY
    return tuple(len(client.search_runs(ids, run_view_type=view)) for view in views)  # type: ignore[return-value]


def test_a_server_keeps_one_deleted_run(plain: tuple[int, "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{plain[0]}"
    place = Place(tmp_path, "asked", uri=uri, tracking={"uri": uri})
    for _ in range(2):
        assert asked(uri, place.file).level is Level.OK
        assert runs(uri, "asked") == (0, 0) and runs(uri, tracking.EXPERIMENT) == (0, 1)
        assert MlflowClient(uri).get_experiment_by_name(tracking.EXPERIMENT).lifecycle_stage == "deleted"
    Store.of(place.sweep).prepare()
    for _ in range(2):
        assert asked(uri, place.file).level is Level.OK
        assert runs(uri, "asked") == (0, 1)
    (found,) = clocks.findings(Question(tracking_uri=uri))
    assert found.level is Level.OK and "the tracking server's clock agrees" in found.what


def test_the_whole_command_with_a_server_that_was_killed(
    plain: tuple[int, "subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every other line is as it was; what cannot be asked is said, and nothing is mended."""
    uri = f"http://127.0.0.1:{plain[0]}"
    place = Place(tmp_path, "whole", tracking={"uri": uri})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run_inside("doctor", str(place.file), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert not said["has_problem"] and {
        "versions",
        "gpu",
        "ray",
        "data",
        "tracking",
        "storage",
        "clocks",
        "orphans",
    } == {finding["check"] for finding in said["findings"]}
    assert any("a trial fits (1 CPU, 0 GPU)" in finding["what"] for finding in said["findings"])
    assert not (tmp_path / "runs").exists()
    stop(plain[1])
    assert run_inside("doctor", str(place.file), "--json", "--fix") == 1
    again = json.loads(capsys.readouterr().out)
    bad = {finding["check"]: finding["what"] for finding in again["findings"] if finding["level"] != "ok"}
    assert bad.pop("tracking").startswith(f"no answer from the tracking server {uri}")
    assert bad.keys() == {"clocks", "orphans"}
    assert again["fixed"][0].startswith("nothing was mended, as long as tracking has a problem")
