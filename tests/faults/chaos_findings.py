"""What a sweep left, as plain data that must not depend on what died meanwhile, and what contradicts itself in it."""

import hashlib
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import ViewType

from orchestrator.analysis.table import read_table
from orchestrator.sink import CHANGED
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from workers import layout
from workers.journal import Journal
from workers.retention import is_left_over
from workers.storage import LOCK, Folder

VOLATILE_TAGS = {"host", "pid", "attempt", "error_class", "error", "cancel", "code_commit", "code_digest"}
"""Where and how often it ran, what went wrong with an earlier attempt, the answer to what was asked of it, and of code
that somebody may be writing."""
VOLATILE_COLUMNS = {"run_id", "attempt", "train_seconds", "error_class", "error", "older_runs"}
HASH = re.compile(rf"-[0-9a-f]{{{layout.HASH_DIGITS}}}\.pt$")


def _is_time(key: str) -> bool:
    return key.startswith(("cost/", "eval/")) or key.endswith("seconds") or key == CHANGED


class Findings:
    """Of a sweep that is through.

    Args:
        sweep: with absolute paths.
        timed_twice: a trial was trained again from its beginning, so that MLflow also has how long it took at first.
    """

    def __init__(self, sweep: Sweep, timed_twice: bool = False) -> None:
        self._sweep, self.store, self._timed_twice = sweep, Store.of(sweep), timed_twice
        self._client: MlflowClient = self.store.client
        self.contradictions: list[str] = []

    def all(self) -> dict[str, Any]:
        """The table, and of each trial what it recorded and what lies in its folder."""
        every = self._client.search_runs([self.store.experiment_id], run_view_type=ViewType.ALL, max_results=1000)
        runs = [run for run in every if run.info.lifecycle_stage == "active"]
        for run in every:
            name, empty = run.data.tags.get("flatsweep.trial_id", "the sweep"), set(run.data.metrics) <= {CHANGED}
            self._expect(run in runs or empty, f"a run of {name} was deleted that was no empty twin")
            self._expect(run.info.status != "RUNNING", f"a run of {name} is RUNNING")
        kinds = Counter(run.data.tags["flatsweep.kind"] for run in runs)
        ids = Counter(run.data.tags.get("flatsweep.trial_id", "the sweep") for run in runs)
        self._expect(max(ids.values()) == 1, f"several runs of one trial: {dict(ids)}")
        for run in runs:
            name = run.data.tags.get("flatsweep.trial_id", "the sweep")
            self._expect(run.info.status == "FINISHED", f"the run of {name} is {run.info.status}")
            self._expect(run.info.end_time is not None, f"the run of {name} has no end")
        trials = [run for run in runs if run.data.tags["flatsweep.kind"] == "trial"]
        return {
            "kinds": dict(kinds),
            "table": self._table(),
            "trials": {run.data.tags["flatsweep.trial_id"]: self._trial(run) for run in trials},
        }

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.contradictions.append(otherwise)

    def _table(self) -> list[str]:
        table = read_table(self._sweep, self.store, fresh=True)
        dropped = [name for name in table if name in VOLATILE_COLUMNS or str(name).startswith("cost_")]
        text = table.drop(columns=dropped).to_csv(index=False, float_format=lambda value: value.hex())
        return sorted(text.splitlines()[1:]) + text.splitlines()[:1]

    def _trial(self, run: Any) -> dict[str, Any]:
        trial_id = run.data.tags["flatsweep.trial_id"]
        folder = Folder(self._sweep.storage) / self._sweep.name / trial_id
        points: dict[str, list[tuple[int, str]]] = {}
        plain = set[tuple[str, int, float]]()
        for key in run.data.metrics:
            history = sorted((each.step, each.value) for each in self._client.get_metric_history(run.info.run_id, key))
            if self._timed_twice and _is_time(key):
                history = [*dict(history).items()]
            elif key != CHANGED:
                plain |= {(key, step, value) for step, value in history}
                self._expect(len({step for step, _ in history}) == len(history), f"{trial_id}: {key} has {history}")
            if key != CHANGED:
                points[key] = [(step, "" if _is_time(key) else value.hex()) for step, value in history]
        self._compare_with_journal(trial_id, folder, run, plain)
        tags = {key: text for key, text in run.data.tags.items() if key.removeprefix("flatsweep.") not in VOLATILE_TAGS}
        tags = {key: text for key, text in tags.items() if not key.startswith("mlflow.") or key == "mlflow.runName"}
        tags = {key: text for key, text in tags.items() if not key.startswith("flatsweep.file/")}
        networks = self._networks(folder / layout.CHECKPOINTS)
        self._expect(networks["newest"] == tags.get("flatsweep.weights"), f"{trial_id}: its weights are not recorded")
        return {
            "points": points,
            "params": {key: text for key, text in run.data.params.items() if key != "data.path"},
            "tags": tags,
            "artifacts": self._artifacts(run.info.run_id),
            "networks": networks,
            "files": self._files(folder),
        }

    def _compare_with_journal(
        self, trial_id: str, folder: Folder, run: Any, points: set[tuple[str, int, float]]
    ) -> None:
        raw = folder.read("journal.jsonl")
        records = Journal(folder).records
        self._expect(raw.count(b"\n") == len(records), f"{trial_id}: its journal has a damaged line")
        metrics = {(record.key, record.step, record.value) for record in records if record.kind == "metric"}
        metrics = {one for one in metrics if not (self._timed_twice and _is_time(one[0]))}
        different = metrics ^ points
        self._expect(not different, f"{trial_id}: journal and MLflow differ in {sorted(different)}")
        tags = {f"flatsweep.{record.key}": record.text for record in records if record.kind in {"tag", "state"}}
        other = {key: (text, run.data.tags.get(key)) for key, text in tags.items() if run.data.tags.get(key) != text}
        self._expect(not other, f"{trial_id}: journal and MLflow differ in {other}")
        state = tags.get("flatsweep.state")
        self._expect(state == "finished", f"{trial_id}: its journal says {state}")

    def _artifacts(self, run_id: str, place: str | None = None) -> list[str]:
        found = []
        for item in self._client.list_artifacts(run_id, place):
            found += self._artifacts(run_id, item.path) if item.is_dir else [item.path]
        return sorted(found)

    def _networks(self, folder: Folder) -> dict[str, str]:
        """The hash of the weights in the last checkpoint, and in the network of each epoch that was kept."""
        newest = max(name for name in folder.names() if layout.parse_checkpoint(name))
        found = {"newest": _weights(torch.load(io.BytesIO(folder.read(newest)), weights_only=True)["model"])}
        snapshots = folder / layout.SNAPSHOTS
        for name in snapshots.names():
            if layout.parse_snapshot(name):
                state = torch.load(io.BytesIO(snapshots.read(name)), weights_only=True)
                found[HASH.sub("", name)] = _weights(state)
        return found

    def _files(self, folder: Folder) -> list[str]:
        """Their names; of the checkpoints the newest, as the one before may be of any moment."""
        older = sorted(filter(layout.parse_checkpoint, (folder / layout.CHECKPOINTS).names()))[:-1]
        self._expect(len(older) <= 1, f"{folder}: old checkpoints are left: {older}")
        names = [HASH.sub("", name) for name in folder.files() if not is_left_over(name) and not name.endswith(LOCK)]
        gone = {layout.ERROR, *(f"{layout.CHECKPOINTS}/{HASH.sub('', name)}" for name in older)}
        return sorted(name for name in names if name not in gone)


def _weights(state: dict[str, torch.Tensor]) -> str:
    """As `workers.training.weights_digest`, written once more."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two pieces of plain data differ, with both sides."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted({*found, *expected})
        return [line for key in keys for line in differences(found.get(key), expected.get(key), f"{place}/{key}")]
    return [] if found == expected else [f"{place}: {found} instead of {expected}"]


def left_over(sweep: Sweep) -> int:
    """Files that were being written when their writer died."""
    return sum(1 for path in Path(sweep.storage).rglob("*.part"))
