"""Sweeps that are on record without having been trained: a real SQLite store, values made up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evaluations import remember as remember_evaluation
from orchestrator.recorded import remember
from orchestrator.sink import RunSink
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.sweep import Evaluation, Trial
from orchestrator.tracking import Store
from workers import layout
from workers.journal import Record

Values = Callable[[Trial], Mapping[str, float]]


@dataclass(frozen=True)
class OnRecord:
    """A sweep file and the runs of its trials, by trial id."""

    file: SweepFile
    store: Store
    runs: dict[str, str]

    def send(self, trial_id: str, **tags: str) -> None:
        RunSink(self.store.uri, self.runs[trial_id]).send([Record("tag", key, text=text) for key, text in tags.items()])

    def evaluate(self, evaluation: Evaluation, values: Values) -> None:
        """Values of another evaluation, as `flatsweep evaluate` records them."""
        remember_evaluation(self.file.sweep, evaluation)
        for trial in self.file.sweep.trials():
            prefix = layout.evaluation_prefix(evaluation.evaluation_id)
            found = {prefix + key: value for key, value in values(trial).items()}
            RunSink(self.store.uri, self.runs[trial.trial_id]).send(metrics(found))
            self.send(trial.trial_id, **{layout.evaluated_tag(evaluation.evaluation_id): "finished"})


def metrics(values: Mapping[str, float]) -> list[Record]:
    return [Record("metric", key, value=value, step=1) for key, value in values.items()]


def put_on_record(path: Path, values: Values, **tags: str) -> OnRecord:
    """Every trial of a sweep file as finished with these values, measured as the file says."""
    file = load_sweep_file(path)
    sweep = file.sweep
    store = Store.of(sweep)
    store.prepare()
    remember(file)
    parent = store.open_parent(sweep, file.text, file.commit)
    runs = {}
    known = {"evaluation_id": sweep.evaluation.evaluation_id, "attempt": "1", "data_digest": "d", **tags}
    for trial in sweep.trials():
        run_id = store.create_trial_run(trial, sweep.evaluation, sweep.name, parent, file.commit)
        records = [*metrics(values(trial)), *(Record("tag", key, text=text) for key, text in known.items())]
        RunSink(store.uri, run_id).send([*records, Record("state", "state", text="finished")])
        runs[trial.trial_id] = run_id
    store.close_parent(parent, "finished")
    return OnRecord(file, store, runs)
