"""A sweep on a cluster of hosts apart: a client sends it, leaves, comes back, follows, cancels, reruns, correlates."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import postgres
import pytest
from apart import BIN, WORKERS, Apart, cluster_apart
from many import run_many

import orchestrator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not())),
    pytest.mark.skipif(postgres.programs() is None, reason=postgres.NO_PROGRAMS),
]

LONG = {
    "training": {
        "epochs": 150,
        "batch_size": 100,
        "attack": {"eps": 0.15, "steps": 2, "step_size": 0.05},
        "schedule": "constant",
    }
}


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with cluster_apart() as made:
        yield made


def states(apart: Apart, file: Path) -> dict[str, str]:
    done = apart.flatsweep("status", str(file), "--json")
    assert done.returncode == 0, done.stderr
    return {trial["trial_id"]: trial["state"] for trial in json.loads(done.stdout)["trials"]}


def until(apart: Apart, file: Path, wanted: str, count: int = 1, timeout: float = 200) -> list[str]:
    """Waits until so many trials are in a state; their ids."""
    ends = time.monotonic() + timeout
    while True:
        found = [trial_id for trial_id, state in states(apart, file).items() if state == wanted]
        if len(found) >= count:
            return found
        assert time.monotonic() < ends, states(apart, file)
        time.sleep(2)


def test_a_client_leaves_and_comes_back(apart: Apart) -> None:
    file = apart.sweep("journey", **LONG, grid={"methods": ["at", "trades"], "seeds": [0, 1]})
    done = apart.flatsweep("submit", str(file), "--detach")
    assert done.returncode == 0, done.stderr
    again = apart.flatsweep("submit", str(file), "--detach")
    assert (again.returncode, "is being run by the job flatsweep-journey-1" in again.stderr) == (2, True)

    victim = until(apart, file, "running")[0]
    follower = subprocess.Popen(
        apart.hosts.command("client", str(BIN / "flatsweep"), "logs", str(file), victim, "--follow"),
        env=apart.client_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout
    lines = iter(follower.stdout.readline, "")
    assert next(line for line in lines if "epoch 3  train" in line)
    done = apart.flatsweep("cancel", str(file), victim[:8])
    assert (done.returncode, f"cancelled: {victim}" in done.stdout) == (0, True), done.stdout + done.stderr
    follower.kill()

    driver = apart.flatsweep("logs", str(file), "--follow")
    assert f"cancelled by its user: {victim}" in driver.stdout
    assert "job flatsweep-journey-1: failed" in driver.stderr  # a trial is not what was wanted: exit code 1
    assert Counter(states(apart, file).values()) == {"finished": 3, "failed": 1}

    rerun = apart.flatsweep("rerun", str(file), "--error-class", "cancelled")
    assert rerun.returncode == 0, rerun.stderr + rerun.stdout
    assert Counter(states(apart, file).values()) == {"finished": 4}
    runs = apart.recorded("journey")
    assert sorted(run["tags"]["flatsweep.trial_id"] for run in runs) == sorted(states(apart, file))
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert {run["tags"]["flatsweep.host"] for run in runs} == set(WORKERS)
    attempts = {run["tags"]["flatsweep.trial_id"]: run["tags"]["flatsweep.attempt"] for run in runs}
    assert attempts.pop(victim) == "2"
    assert set(attempts.values()) == {"1"}

    answer = apart.flatsweep("correlate", "journey", "--json", MLFLOW_TRACKING_URI=apart.tracking)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)


def test_a_client_that_is_killed_is_not_missed(apart: Apart) -> None:
    file = apart.sweep("left", **LONG)
    client = subprocess.Popen(
        apart.hosts.command("client", str(BIN / "flatsweep"), "submit", str(file)),
        env=apart.client_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert client.stdout
        assert next((line for line in iter(client.stdout.readline, "") if line.startswith("started ")), "")
        ids = until(apart, file, "running")
    finally:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait(30)
    again = apart.flatsweep("submit", str(file))
    assert (again.returncode, "is being run by the job flatsweep-left-1" in again.stderr) == (2, True)
    driver = apart.flatsweep("logs", str(file), "--follow")
    assert driver.returncode == 0, driver.stderr
    runs = apart.recorded("left")
    found = {run["tags"]["flatsweep.trial_id"]: (run["status"], run["tags"]["flatsweep.attempt"]) for run in runs}
    assert set(ids) <= set(found) and len(runs) == 2
    assert set(found.values()) == {("FINISHED", "1")}


def test_secrets_are_seen_nowhere(apart: Apart) -> None:
    secrets = [(apart.folder / name).read_text() for name in ("token", "password", "database-password")]
    file = apart.sweep("hushed", **LONG)
    assert apart.flatsweep("submit", str(file), "--detach").returncode == 0
    until(apart, file, "running")
    commands = [path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert any("orchestrator.cluster.job" in command for command in commands)
    assert apart.flatsweep("cancel", str(file)).returncode == 0
    logs = [path.read_text(errors="replace") for path in apart.folder.rglob("*.log")]
    said = apart.flatsweep("logs", str(file)).stdout
    assert len(logs) > 5
    for text in [*commands, *logs, said, json.dumps(apart.recorded("hushed"))]:
        assert not any(secret in text for secret in secrets)


def test_many_short_trials_are_all_there_once(apart: Apart) -> None:
    count = 500
    many = run_many(apart, "many", count)
    runs = apart.recorded("many")
    assert len(runs) == count
    assert len({run["tags"]["flatsweep.trial_id"] for run in runs}) == count
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert {run["tags"]["flatsweep.attempt"] for run in runs} == {"1"}
    assert len(many.memory.samples) > 20
    ends = sorted(run["end_ms"] / 1000 for run in runs)
    after = [many.memory.at(end) for end in ends[count // 5 :]]  # before it imports, after it draws figures
    assert max(after) < 1.1 * after[0]


def test_a_sweep_is_stopped_from_afar_and_goes_on(apart: Apart) -> None:
    file = apart.sweep("stopped", **LONG)
    assert apart.flatsweep("submit", str(file), "--detach").returncode == 0
    until(apart, file, "running", 2)
    done = apart.flatsweep("cancel", str(file))
    assert (done.returncode, "is stopped" in done.stdout) == (0, True), done.stderr
    assert set(states(apart, file).values()) == {"interrupted"}
    done = apart.flatsweep("submit", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"done": 2}
    assert {run["tags"]["flatsweep.attempt"] for run in apart.recorded("stopped")} == {"2"}


def test_what_cannot_work_is_refused_before_anything_starts(apart: Apart) -> None:
    store, two = apart.hosts.address("store"), apart.hosts.address("two")
    wrong = apart.folder / "wrong"
    wrong.write_text("0" * 64)
    tracking = {name: {"tracking": {"uri": f"http://{name}"}} for name in (f"{store}:5999", "store:5000")}
    cases: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({}, {"RAY_AUTH_TOKEN_PATH": str(wrong)}, "refuses this token"),
        ({}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}, "wants a token and got none"),
        ({}, {"MLFLOW_TRACKING_PASSWORD": "not this one"}, "password"),
        (tracking[f"{store}:5999"], {}, f"no answer from the tracking server http://{store}:5999"),
        (tracking["store:5000"], {}, "--allowed-host"),
        ({"storage": str(apart.unshared)}, {}, f"node {two}: storage: {apart.unshared}/refused is not the driver's"),
        ({}, {"PYTHONPATH": str(other_code(apart))}, "trials of different code must not get mixed"),
    ]
    for changes, env, sentence in cases:
        done = apart.flatsweep("submit", str(apart.sweep("refused", **changes)), **env)
        assert (done.returncode, sentence in done.stderr) == (2, True), (sentence, done.stderr, done.stdout)
        assert done.stderr.count("error: ") == 1
        assert "Traceback" not in done.stderr + done.stdout
    assert apart.recorded("refused") == []


def test_the_code_of_a_wheel_runs_instead(apart: Apart) -> None:
    code = other_code(apart)
    wheel = apart.folder / "flatsweep-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        for file in code.rglob("*"):
            content.write(file, file.relative_to(code))
    done = apart.flatsweep("submit", str(apart.sweep("carried")), "--wheel", str(wheel), PYTHONPATH=str(code))
    assert done.returncode == 0, done.stderr + done.stdout
    digests = {run["tags"]["flatsweep.code_digest"] for run in apart.recorded("carried")}
    words = [sys.executable, "-c", "from orchestrator.versions import own_code; print(own_code().digest)"]
    environment = apart.client_environment(PYTHONPATH=str(code))
    shown = subprocess.run(words, env=environment, cwd=code, capture_output=True, text=True, check=True)
    assert digests == {shown.stdout.strip()}


def other_code(apart: Apart) -> Path:
    """flatsweep with one more line."""
    code = apart.folder / "other"
    if not code.exists():
        root = Path(orchestrator.__file__).parent.parent
        for package in ("orchestrator", "workers"):
            shutil.copytree(root / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        with (code / "workers/__init__.py").open("a") as file:
            file.write("\n# one more line\n")
    return code
