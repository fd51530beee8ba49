"""The `flatsweep` command as a user runs it, and what a sweep leaves in its folder and in MLflow."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from orchestrator import cli
from orchestrator.sink import CHANGED
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep, Trial
from workers.journal import Record, parse

COMMAND = Path(sys.executable).with_name("flatsweep")
ATTACK = {"steps": 2, "step_size": 0.05}
BASE: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 300},
    "model": {"name": "small_preact_resnet", "width": 8},
    "training": {"epochs": 2, "batch_size": 100, "attack": {"eps": 0.15, **ATTACK}, "schedule": "constant"},
    "grid": {"methods": ["at"], "seeds": [0, 1]},
    "evaluation": {
        "measures": [
            {"name": "robustness", "attack": ATTACK, "train_examples": 100, "test_examples": 100},
            {"name": "average_flatness", "draws": 2, "examples": 50, "attack": ATTACK},
        ]
    },
}


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would send a sweep to a cluster or a tracking server of the user's."""
    kept = {key: value for key, value in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    # Ray's workers are nice (15) by default: beside the other tests they would hardly run
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200", "RAY_worker_niceness": "0"} | more


def run_inside(*words: str) -> int:
    """One command in this process, for those that start nothing: saves the imports. Returns the exit code."""
    before = sys.argv
    sys.argv = ["flatsweep", *words]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@dataclass(frozen=True)
class Recorded:
    """One trial's run in MLflow with every point of every metric."""

    run_id: str
    status: str
    start: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    points: dict[str, list[tuple[int, float]]]

    def tag(self, key: str) -> str:
        return self.tags.get(f"flatsweep.{key}", "")


class Place:
    """A folder with one sweep file, and its storage."""

    def __init__(self, folder: Path, name: str, uri: str | None = None, **changes: Any) -> None:
        self.folder, self.name = folder, name
        self.uri = uri or f"sqlite:///{folder}/runs/mlflow.db"
        self.file = folder / f"{name}.yaml"
        self.write(**changes)

    def write(self, **changes: Any) -> None:
        self.file.write_text(json.dumps({"name": self.name} | BASE | changes, indent=1))

    @property
    def sweep(self) -> Sweep:
        return load_sweep_file(self.file).sweep

    def trials(self) -> dict[str, Trial]:
        return {trial.trial_id: trial for trial in self.sweep.trials()}

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / "runs" / self.name / trial_id

    # the command

    def run(self, command: str, *words: str, timeout: float = 400, **env: str) -> subprocess.CompletedProcess[str]:
        with self.started(command, *words, **env) as process:
            code = process.wait(timeout)
        return subprocess.CompletedProcess([command], code, self.output("stdout"), self.output("stderr"))

    @contextlib.contextmanager
    def started(self, command: str, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        with self._path("stdout").open("wb") as out, self._path("stderr").open("wb") as err:
            process = subprocess.Popen(
                [str(COMMAND), command, str(self.file), *words],
                stdout=out, stderr=err, env=environment(**env), start_new_session=True, cwd=self.folder,
                # pytest in a background job ignores Ctrl-C, and its children would inherit that
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _path(self, stream: str) -> Path:
        return self.folder / f"{self.name}.{stream}.txt"

    def output(self, stream: str) -> str:
        return self._path(stream).read_text()

    # what it leaves

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def runs(self, kind: str = "trial", experiment: str | None = None) -> list[Any]:
        found = self.client.get_experiment_by_name(experiment or self.name)
        if found is None:
            return []
        query = f"tags.`flatsweep.kind` = '{kind}'"
        return list(self.client.search_runs([found.experiment_id], query, order_by=["start_time ASC"]))

    def recorded(self) -> dict[str, Recorded]:
        """By trial id; fails where a trial has two runs."""
        runs = self.runs()
        ids = Counter(run.data.tags["flatsweep.trial_id"] for run in runs)
        assert set(ids.values()) <= {1}, f"several runs of one trial: {ids}"
        return {run.data.tags["flatsweep.trial_id"]: self._recorded(run) for run in runs}

    def _recorded(self, run: Any) -> Recorded:
        info, data = run.info, run.data
        metrics = {key: value for key, value in data.metrics.items() if key != CHANGED}
        points = {
            key: sorted((point.step, point.value) for point in self.client.get_metric_history(info.run_id, key))
            for key in metrics
        }
        return Recorded(info.run_id, info.status, info.start_time, data.tags, data.params, metrics, points)

    def journal(self, trial_id: str) -> list[Record]:
        path = self.trial_folder(trial_id) / "journal.jsonl"
        return parse(path.read_bytes())[0] if path.exists() else []

    def journal_tag(self, trial_id: str, key: str) -> str:
        """The newest value of a tag in the journal; '' where there is none."""
        texts = [record.text for record in self.journal(trial_id) if record.kind == "tag" and record.key == key]
        return texts[-1] if texts else ""

    def attempts(self, trial_id: str) -> int:
        return sum(record.kind == "state" and record.text == "running" for record in self.journal(trial_id))

    def epochs(self, trial_id: str) -> int:
        """Epochs that the journal holds."""
        return sum(record.key == "train/loss" for record in self.journal(trial_id))

    def results(self, trial_id: str) -> dict[str, float]:
        """All values in the trial's result files."""
        values: dict[str, float] = {}
        for path in sorted((self.trial_folder(trial_id) / "measures").glob("*.json")):
            values |= json.loads(path.read_text())["values"]
        return values

    def files(self, trial_id: str, part: str) -> dict[str, int]:
        """Name -> time of change, of the files in a part of the trial's folder."""
        return {path.name: path.stat().st_mtime_ns for path in (self.trial_folder(trial_id) / part).iterdir()}


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 280) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.05)


def each_epoch_once(run: Recorded, epochs: int) -> None:
    for key in ("train/loss", "train/error", "train/lr", "train/seconds"):
        assert [step for step, _ in run.points[key]] == list(range(1, epochs + 1)), key


def processes(text: str) -> list[int]:
    """Ids of the processes with `text` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
