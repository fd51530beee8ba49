"""One trial from start to end: train, measure, record. Plain Python: neither Ray nor MLflow is needed."""

import json
import logging
import os
import platform
import socket
import traceback
from collections.abc import Generator

import torch

from orchestrator import __version__
from orchestrator.spec.base import packages
from orchestrator.spec.sweep import Evaluation, Trial
from workers import checkpoints, faults, layout, retention
from workers.data.splits import Splits, load_splits
from workers.failures import DataError, ErrorClass, StorageError, classify
from workers.journal import Journal
from workers.measurement import Measurement, Measuring, Values
from workers.memory import kept_memory
from workers.pseudo_labels import with_pseudo_labels
from workers.recorder import Recorder, Sink
from workers.repeats import COST, Repeats
from workers.share import shared_memory, shortage_note
from workers.steps import drain
from workers.storage import Folder
from workers.training import Progress, Trainer, weights_digest

logger = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
"""How long a worker waits for another one to let go of the trial's folder: a lost one takes a moment to die."""

CLOSE_SECONDS = 30.0
"""How long the end of a trial waits for a tracking store that does not answer; the journal has everything."""
STOP_SECONDS = 3.0
"""The same when the trial is stopped: whoever stops it does not wait long."""


def run_trial(
    trial: Trial,
    evaluation: Evaluation | None,
    folder: Folder,
    *,
    sink: Sink | None = None,
    device: torch.device | str = "cpu",
) -> Values:
    """Trains (going on from the newest checkpoint), measures what is missing, records, and returns all values.

    Args:
        trial: what to train.
        evaluation: what to measure; None to train only.
        folder: the trial's own folder.
        sink: where records go besides the folder's journal.
        device: where to run.

    Raises:
        DivergedError, DataError, StorageError: see `workers.failures`.
    """
    return drain(trial_steps(trial, evaluation, folder, sink=sink, device=device))


def trial_steps(
    trial: Trial,
    evaluation: Evaluation | None,
    folder: Folder,
    *,
    sink: Sink | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Progress | Measuring, None, Values]:
    """`run_trial` in steps: yields after every batch and every part of a measure.

    Closing the generator stops the trial: it saves a checkpoint, records that it was interrupted, and lets go of its
    folder. Running it again goes on from there.
    """
    device = torch.device(device)
    with folder.lock(LOCK_SECONDS), kept_memory():
        recorder, through = Recorder(folder, sink), False
        try:
            through = _is_through(trial, evaluation, folder, recorder.journal)
            if not through:
                _begin_attempt(trial, evaluation, recorder, device)
            values = yield from _train_and_measure(trial, evaluation, folder, recorder, device)
            if not through:
                recorder.state("finished")
            faults.point("trial/finished")
        except GeneratorExit:
            if not through:
                recorder.state("interrupted")
            close(recorder, STOP_SECONDS)
            raise
        except Exception as error:
            record_failure(error, folder, recorder)
            close(recorder, CLOSE_SECONDS)
            raise
        close(recorder, CLOSE_SECONDS)
        faults.point("trial/closed")
    return values


def record_failure(error: Exception, folder: Folder, recorder: Recorder) -> None:
    """Records class and message; the traceback goes to the folder."""
    try:
        folder.write(layout.ERROR, "".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
        recorder.tags({"error_class": classify(error), "error": f"{type(error).__name__}: {described(error)}"})
        recorder.state("failed")
    except (
        OSError,
        StorageError,
    ) as second:  # the storage that failed the trial fails its record too: the first counts
        logger.warning("cannot record the failure: %s", second)


def described(error: Exception) -> str:
    """Its message; of memory that ran out also whether a neighbour on the GPU may be the reason."""
    return f"{error}{shortage_note(shared_memory()) if classify(error) is ErrorClass.OUT_OF_MEMORY else ''}"


def close(recorder: Recorder, timeout: float) -> None:
    """Waits until everything is sent, or says what is not."""
    if left := recorder.close(timeout):
        logger.warning("%d records are in the journal only; the next submit sends them", left)


def _train_and_measure(
    trial: Trial, evaluation: Evaluation | None, folder: Folder, recorder: Recorder, device: torch.device
) -> Generator[Progress | Measuring, None, Values]:
    folder.write(layout.TRIAL, json.dumps(trial.model_dump(mode="json"), indent=2).encode())
    trainer = restored_trainer(trial, folder, device)
    recorder.tags({"data_digest": trainer.splits.digest})
    repeats = Repeats(folder, trainer, recorder.journal)
    if not trainer.finished:
        yield from repeats.watched(trainer.run(recorder))
    seconds = sum(recorder.journal.values("train/seconds"))
    recorder.metrics({"cost/train_seconds": seconds, COST: repeats.seconds}, trainer.epoch)
    repeats.end()
    recorder.tags({"weights": weights_digest(trainer.model)})
    values: Values = {}
    if evaluation is not None:
        values = yield from Measurement(trainer, evaluation, folder / layout.MEASURES, recorder).run()
        recorder.tags({"evaluation_id": evaluation.evaluation_id})
    retention.apply(trial, evaluation, folder)
    return values


def _is_through(trial: Trial, evaluation: Evaluation | None, folder: Folder, journal: Journal) -> bool:
    """Whether an earlier attempt ended, and only its records may still have to be sent: one that dies at that leaves
    the trial as finished as it was."""
    if [record.text for record in journal.records if record.kind == "state"][-1:] != ["finished"]:
        return False
    saved = folder / layout.CHECKPOINTS
    trained = max((found[0] for found in map(layout.parse_checkpoint, saved.names()) if found), default=0)
    if trained < trial.training.epochs or evaluation is None:
        return trained >= trial.training.epochs
    kept = {found[0] for found in map(layout.parse_snapshot, (saved / layout.SNAPSHOTS).names()) if found}
    networks = layout.networks(trial, evaluation, kept)
    results = {layout.result_name(one, evaluation.seed, network) for one in evaluation.measures for network in networks}
    return results <= set((folder / layout.MEASURES).names())


def _begin_attempt(trial: Trial, evaluation: Evaluation | None, recorder: Recorder, device: torch.device) -> None:
    attempt = 1 + sum(record.kind == "state" and record.text == "running" for record in recorder.journal.records)
    recorder.state("running")
    faults.point("trial/running")
    others = packages(*filter(None, (trial, evaluation)))
    versions = {f"{name}_version": version for name, version in {"flatsweep": __version__, **others}.items()}
    recorder.tags({"attempt": str(attempt), "error_class": "", "error": "", **surroundings(device), **versions})


def restored_trainer(trial: Trial, folder: Folder, device: torch.device) -> Trainer:
    """The trial's data, checked, and its network as the newest checkpoint has it; the caller holds its folder.

    Raises:
        DataError: the data cannot be read, or are not those that the trial began with.
        StorageError: its teacher is not trained.
    """
    splits = load_splits(trial.data, device)
    _check_data(folder, splits)
    trainer = Trainer(trial, with_pseudo_labels(trial, splits, folder, device), folder / layout.CHECKPOINTS, device)
    checkpoints.tidy(folder / layout.CHECKPOINTS, trainer.epoch, trainer.next_batch)
    return trainer


def _check_data(folder: Folder, splits: Splits) -> None:
    """Refuses to go on with other data than the trial began with."""
    content = json.dumps({"sha256": splits.digest}).encode()
    known = folder.read_if_there(layout.DATA)
    if known is None:
        folder.write(layout.DATA, content)
    elif known != content:
        raise DataError("the data set's content has changed since this trial began; put the old one back, or "
                        "`flatsweep rerun --from-scratch`")  # fmt: skip


def surroundings(device: torch.device) -> dict[str, str]:
    """Where this process runs, as tags."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
