"""A sweep whose storage is an S3 server: submitted, killed, submitted again, read by name, begun again, pruned."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from s3_server import S3Server
from sweeping import BASE, environment, wait_for

from orchestrator.driver import has_driver
from orchestrator.spec.loading import load_sweep_file
from workers import layout
from workers.journal import Journal
from workers.storage import Folder
from workers.trial import run_trial

pytestmark = pytest.mark.slow
CALL = "from orchestrator.cli import main; main()"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for key, text in server.environment.items():
            patch.setenv(key, text)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield server


class Elsewhere:
    """A sweep file, and its storage on the server."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder, self.storage = folder, f"{server.bucket()}/deep/runs"
        tracking = {"uri": f"sqlite:///{folder}/mlflow.db"}
        training = {**BASE["training"], "epochs": 40}
        changes = {"storage": self.storage, "tracking": tracking, "training": training}
        (folder / "x.yaml").write_text(json.dumps({"name": "x"} | BASE | changes))
        self.environment = environment(**server.environment, XDG_CACHE_HOME=str(folder / "cache"))
        self.sweep = load_sweep_file(folder / "x.yaml").sweep
        self.trials = {trial.trial_id: trial for trial in self.sweep.trials()}

    def started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CALL, *words], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if "--json" not in words else None, start_new_session=True,
        )  # fmt: skip

    def said(self, *words: str, code: int = 0) -> str:
        process = self.started(*words)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == code, out
        return out

    def folder_of(self, trial_id: str) -> Folder:
        return Folder(self.storage) / "x" / trial_id

    def journal(self, trial_id: str) -> Journal:
        return Journal(self.folder_of(trial_id))

    def all_have(self, epochs: int) -> bool:
        return all(len(self.journal(trial_id).values("train/loss")) >= epochs for trial_id in self.trials)

    def tag(self, trial_id: str, key: str) -> str:
        return [one.text for one in self.journal(trial_id).records if one.kind == "tag" and one.key == key][-1]


@pytest.mark.timeout(2400)
def test_a_sweep_on_s3_is_killed_and_goes_on(tmp_path: Path, server: S3Server) -> None:
    place = Elsewhere(tmp_path, server)
    with place.started("submit", "x.yaml") as driver:
        try:
            wait_for(lambda: driver.poll() is not None or has_driver(place.sweep), "the driver", 600)
            assert "is being run by process" in place.said("submit", "x.yaml", code=2)
            wait_for(lambda: driver.poll() is not None or place.all_have(2), "epochs", 600)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)  # the driver, and what it started in its group
            print(driver.stdout.read() if driver.stdout else "")
    place.said("submit", "x.yaml")
    for trial_id, trial in place.trials.items():
        run_trial(trial, None, Folder(str(tmp_path / trial_id)))
        here = [one.text for one in Journal(Folder(str(tmp_path / trial_id))).records if one.key == "weights"]
        assert place.tag(trial_id, "weights") == here[-1] and place.tag(trial_id, "attempt") == "2"
        steps = [one.step for one in place.journal(trial_id).records if one.key == "train/loss"]
        assert steps == list(range(1, 41))
    # elsewhere, with nothing but the storage's address and the store's
    status = json.loads(place.said("status", "x", "--storage", place.storage, "--json"))
    assert status["counts"] == {"finished": 2} and not status["driver_alive"]
    assert {"report.html", "table.csv"} <= set((Folder(place.storage) / "x" / "analysis").names())
    first = next(iter(place.trials))
    place.said("rerun", "x", "--storage", place.storage, "--from-scratch", "--trial", first)
    assert (Folder(place.storage) / "x" / f"{first}.old-1").exists(layout.TRIAL)
    assert place.tag(first, "attempt") == "1"
    freed = json.loads(place.said("prune", "x", "--storage", place.storage, "--json"))
    assert {one["folder"] for one in freed["removed"]} == {*place.trials, f"{first}.old-1"}
    assert all(len((place.folder_of(name) / layout.CHECKPOINTS).names()) == 1 for name in place.trials)
    secret = server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert not kept
    for path in Folder(place.storage).files():
        assert secret not in Folder(place.storage).read(path)
