"""A sweep that was disturbed, against one that was not."""

import json
from pathlib import Path
from typing import Any

import torch
from sweeping import Place, each_epoch_once

from workers.journal import Journal
from workers.storage import Folder
from workers.trial import run_trial


def as_undisturbed(place: Place, folder: Path) -> None:
    """The sweep is through, with one run per trial and none RUNNING; values and weights are bit for bit those of
    trials that run in this process, one after another, into `folder`."""
    runs = place.recorded()
    assert set(runs) == set(place.trials())
    threads = torch.get_num_threads()
    for trial_id, trial in place.trials().items():
        run = runs[trial_id]
        assert (run.status, run.tag("state"), run.tag("error_class")) == ("FINISHED", "finished", "")
        each_epoch_once(run, trial.training.epochs)
        alone = Folder(f"{folder}/{trial_id}")
        torch.set_num_threads(int(run.tag("threads")))
        try:
            values = run_trial(trial, place.sweep.evaluation, alone)
        finally:
            torch.set_num_threads(threads)
        records = Journal(alone).records
        (weights,) = [record.text for record in records if record.key == "weights"]
        assert run.tag("weights") == weights
        assert values == place.results(trial_id)
        assert values.items() <= run.metrics.items()
        assert {key: points for key, points in run.points.items() if not is_clock(key)} == points_of(records)
    assert {run.info.status for run in place.runs("sweep")} == {"FINISHED"}


def points_of(records: list[Any]) -> dict[str, list[tuple[int, float]]]:
    """Every point of every metric in a journal but clocks."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.kind == "metric" and not is_clock(record.key):
            points.setdefault(record.key, []).append((record.step, record.value))
    return {key: sorted(found) for key, found in points.items()}


def is_clock(key: str) -> bool:
    return key.startswith("cost/") or key == "train/seconds"


def went_on(place: Place, trial_id: str) -> list[int]:
    """The first epoch, from 1, of each later attempt of a trial; one that trained nothing is left out."""
    records = place.journal(trial_id)
    starts = [index for index, record in enumerate(records) if record.kind == "state" and record.text == "running"]
    found = []
    for start, end in zip(starts[1:], [*starts[2:], len(records)], strict=True):
        epochs = [record.step for record in records[start:end] if record.key == "train/loss"]
        found += epochs[:1]
    return found


def slowly(folder: Path, epochs: int, seconds: float) -> dict[str, str]:
    """For the environment of a sweep: the first trial that reaches an epoch sleeps there."""
    file = folder / "slowly.json"
    faults = [{"point": "train/epoch", "action": "sleep", "hit": n + 1, "seconds": seconds} for n in range(epochs)]
    file.write_text(json.dumps(faults))
    return {"FLATSWEEP_FAULTS": str(file)}
