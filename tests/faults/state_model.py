"""A plain model of what becomes of trials, and a worker's part played without training, for `test_states`."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch

from orchestrator.plan import Action, Entry
from orchestrator.sink import RunSink
from orchestrator.spec.sweep import Evaluation
from orchestrator.tracking import Store
from workers import checkpoints, layout
from workers.failures import DataError, DivergedError, ErrorClass
from workers.recorder import Recorder
from workers.sealed import sealed
from workers.storage import Folder
from workers.trial import close, record_failure

EPOCHS = 2
PASSING = {"worker_lost", "storage_unavailable"}
FATES = ("finish", "diverged", "bad_data", "dies", "dies at once", "dies early", "unheard", "interrupted", "cancelled")
"""What becomes of a trial on a worker. Unheard: it ends, but MLflow never hears of it."""


@dataclass
class Known:
    """What the model holds of one trial."""

    exists: bool = False
    """Whether its folder says what trial it is."""
    journal: bool = False
    epoch: int = 0
    results: set[str] = field(default_factory=set)
    """Ids of the evaluations that have been measured."""
    run: str | None = None
    """State of its run; None without one."""
    error: str = ""
    evaluated: str = ""
    """Id of the evaluation that its run says was recorded."""
    told: tuple[str, str, str] = ("", "", "")
    """State, class of error and evaluation as its journal says them."""
    recorded: set[int] = field(default_factory=set)
    """Epochs whose values its run has."""
    written: set[int] = field(default_factory=set)
    """Epochs whose values its journal has."""
    asked_to_end: bool = False

    def action(self, evaluation_id: str) -> Action:
        """What a submit is to do with it."""
        if self.run == "failed" and self.error not in PASSING:
            return Action.FAILED
        if not self.exists or (self.run is None and not self.epoch):
            return Action.RUN
        if self.epoch < EPOCHS:
            return Action.RESUME
        if evaluation_id not in self.results:
            return Action.MEASURE
        return Action.DONE if (self.run, self.evaluated) == ("finished", evaluation_id) else Action.RESUME

    def lose_folder(self) -> None:
        self.exists, self.journal, self.epoch, self.results, self.told, self.written = (
            False, False, 0, set(), ("", "", ""), set(),
        )  # fmt: skip

    def tell(self, state: str, error: str = "") -> None:
        """Both the journal, where there is one, and the run have ended so."""
        self.run, self.error = state, error
        if self.journal:
            self.told = state, error, self.told[2]
            self.evaluated = self.told[2] or self.evaluated
            self.recorded |= self.written

    def close(self, *, lost: bool = False) -> None:
        """What a driver makes of a trial that no worker has."""
        said = self.told[0]
        if self.run is None:
            return
        if self.asked_to_end and self.run not in {"finished", "failed"}:
            failure: tuple[str, str] | None = ("failed", "cancelled")
        else:
            failure = ("failed", "worker_lost") if lost and self.run != "failed" else None
        self.asked_to_end = False
        if self.run != "running" and failure is None:
            return
        if not self.journal or said in {"", "pending", "running"} or (failure and said == "interrupted"):
            self.tell(*(failure or ("interrupted", "" if not self.journal else self.told[1])))
        else:
            self.tell(said, self.told[1])

    def act(self, fate: str, evaluation_id: str) -> bool:
        """What becomes of it on a worker, before a driver looks; says whether the worker is lost."""
        self.run = self.run or "pending"
        if fate == "dies at once":
            return True
        self.journal, self.told, self.run = True, ("running", "", self.told[2]), "running"
        self.error = ""
        if fate == "dies early":
            return True
        self.exists = True
        reached = EPOCHS if fate in {"finish", "unheard"} else min(self.epoch + 1, EPOCHS)
        self.written |= set(range(self.epoch + 1, reached + 1))
        self.epoch = reached
        heard = fate != "unheard"
        if fate in {"finish", "unheard"}:
            self.results.add(evaluation_id)
            self.told = "finished", "", evaluation_id
        elif fate in {"diverged", "bad_data"}:
            self.told = "failed", fate, self.told[2]
        elif fate in {"interrupted", "cancelled"}:
            self.told = "interrupted", "", self.told[2]
            self.asked_to_end = fate == "cancelled"
        if heard:
            self.recorded |= self.written
            self.run, self.error, self.evaluated = self.told[0], self.told[1], self.told[2] or self.evaluated
        else:
            self.run = "running"
        return fate == "dies"

    def rebuild(self) -> None:
        """Its run was lost, and made again from the folder."""
        self.run, self.error, self.evaluated, self.recorded = None, "", "", set()
        self.asked_to_end = False
        if self.journal:
            state = "interrupted" if self.told[0] == "running" else self.told[0] or "pending"
            self.told = state, self.told[1], self.told[2]
            self.run, self.error, self.evaluated = self.told
            self.recorded = set(self.written)


def loss(epoch: int) -> float:
    """What training records at an epoch, whoever trains and how often."""
    return 2.0 / epoch


def play(entry: Entry, evaluation: Evaluation, folder: Folder, store: Store, run_id: str, fate: str) -> None:
    """What a worker writes, by the real recorder, journal, checkpoints and sink."""
    if fate == "dies at once":
        return
    sink = RunSink(store.uri, run_id, folder)
    with folder.lock(1):
        recorder = Recorder(folder, sink)
        recorder.state("running")
        recorder.tags({"error_class": "", "error": ""})
        if fate == "dies early":
            close(recorder, 30)
            return
        if fate == "unheard":  # the tracking store is away from here on
            close(recorder, 30)
            recorder = Recorder(folder)
        _work(entry, evaluation, folder, recorder, fate)
        close(recorder, 30)


def _work(entry: Entry, evaluation: Evaluation, folder: Folder, recorder: Recorder, fate: str) -> None:
    folder.write(layout.TRIAL, entry.trial.model_dump_json().encode())
    whole = fate in {"finish", "unheard"}
    reached = EPOCHS if whole else min(entry.traces.epoch + 1, EPOCHS)
    for epoch in range(entry.traces.epoch + 1, reached + 1):
        recorder.metrics({"train/loss": loss(epoch)}, epoch)
        checkpoints.save(folder / layout.CHECKPOINTS, epoch, 0, {"w": torch.full((2,), float(epoch))})
    if whole:
        measured(evaluation, folder)
        recorder.metrics({"robust_loss_gap": 0.25}, EPOCHS, replace=True)
        recorder.tags({"evaluation_id": evaluation.evaluation_id})
        recorder.state("finished")
    elif fate in {"diverged", "bad_data"}:
        error: Any = DivergedError("boom") if fate == "diverged" else DataError("torn")
        assert ErrorClass(fate)
        record_failure(error, folder, recorder)
    elif fate in {"interrupted", "cancelled"}:
        recorder.state("interrupted")


def measured(evaluation: Evaluation, folder: Folder) -> None:
    """A result for every measure."""
    for measure in evaluation.measures:
        content = {
            "measure": json.loads(measure.model_dump_json()),
            "values": {"robust_loss_gap": 0.25},
            "seconds": 0.5,
        }
        (folder / layout.MEASURES).write(layout.result_name(measure, evaluation.seed), sealed(content))
