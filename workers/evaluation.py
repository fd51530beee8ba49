"""Measuring a trained trial once more with other settings, beside what is recorded of it. Nothing is trained."""

import logging
from collections.abc import Generator

import torch

from orchestrator.spec.sweep import Evaluation, Trial
from workers import layout
from workers.failures import StorageError, classify
from workers.measurement import Measurement, Measuring, Values
from workers.memory import kept_memory
from workers.recorder import Recorder, Sink
from workers.storage import Folder
from workers.trial import CLOSE_SECONDS, LOCK_SECONDS, STOP_SECONDS, close, restored_trainer

logger = logging.getLogger(__name__)


def evaluation_steps(
    trial: Trial,
    evaluation: Evaluation,
    folder: Folder,
    *,
    sink: Sink | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Measuring, None, Values]:
    """Measures what has no result yet, in steps; closing the generator stops it, and another one goes on.

    Values are recorded under names that begin with `layout.evaluation_prefix`. The trial's own state stays as it is,
    whatever happens here; the tag `layout.evaluated_tag` says how this evaluation stands.

    Args:
        trial: trained to the end.
        evaluation: what to measure.
        folder: the trial's own folder.
        sink: where records go besides the folder's journal.
        device: where to run.

    Raises:
        StorageError: the trial is not trained to its end.
        DataError: its data cannot be read, or have changed.
    """
    tag = layout.evaluated_tag(evaluation.evaluation_id)
    with folder.lock(LOCK_SECONDS), kept_memory():
        recorder = Recorder(folder, sink)
        try:
            recorder.tags({tag: "running"})
            trainer = restored_trainer(trial, folder, torch.device(device))
            if not trainer.finished:
                raise StorageError("it is not trained to its end: `flatsweep submit` goes on with it")
            prefix = layout.evaluation_prefix(evaluation.evaluation_id)
            measurement = Measurement(trainer, evaluation, folder / layout.MEASURES, recorder, prefix)
            values = yield from measurement.run()
            recorder.tags({tag: "finished"})
        except GeneratorExit:
            recorder.tags({tag: "interrupted"})
            close(recorder, STOP_SECONDS)
            raise
        except Exception as error:
            recorder.tags({tag: f"failed: {classify(error)}: {type(error).__name__}: {error}"})
            close(recorder, CLOSE_SECONDS)
            raise
        close(recorder, CLOSE_SECONDS)
    return values
