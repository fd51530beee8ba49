"""A sweep of eight trials in a real SQLite store, for tests that need no Ray."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers.journal import Journal, Record
from workers.storage import Folder

COMMIT = "0123abc"
TEXT = "name: x\ngrid:\n  methods: [at, trades]\n  seeds: [0, 1, 2, 3]\n"


@dataclass(frozen=True)
class Place:
    store: Store
    sweep: Sweep
    parent: str
    base: Path

    def new_run(self, trial: Trial, state: str = "running") -> str:
        run_id = self.store.create_trial_run(trial, self.sweep.evaluation, "x", self.parent, COMMIT)
        self.store.set_state(run_id, state)
        return run_id

    def folder(self, trial: Trial) -> Folder:
        return Folder(f"{self.sweep.storage}/x/{trial.trial_id}")

    def run(self, run_id: str) -> TrialRun:
        return next(run for run in self.store.trial_runs("x") if run.run_id == run_id)

    def points(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.store.client.get_metric_history(run_id, key)]


def epoch(step: int, time_ms: int = 0) -> list[Record]:
    more = {"time_ms": time_ms} if time_ms else {}
    return [Record("metric", "train/loss", value=2.0 / step, step=step, **more)]


def states(journal: Journal) -> list[str]:
    return [record.text for record in journal.records if record.kind == "state"]
