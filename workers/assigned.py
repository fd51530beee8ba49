"""A worker's assignment: what a driver sent as JSON, read on this machine and done."""

from collections.abc import Generator

import torch
from pydantic import ValidationError

from orchestrator.spec.sweep import Evaluation, Trial
from workers.evaluation import evaluation_steps
from workers.measurement import Measuring, Values
from workers.recorder import Recorder, Sink
from workers.storage import Folder
from workers.training import Progress
from workers.trial import CLOSE_SECONDS, LOCK_SECONDS, close, record_failure, trial_steps


def assigned_steps(
    trial: str,
    evaluation: str,
    folder: Folder,
    *,
    measure_only: bool = False,
    sink: Sink | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Progress | Measuring, None, Values]:
    """`trial_steps` of a trial and an evaluation (or '') as JSON, or `evaluation_steps` of them.

    A trial that cannot be read on this machine is recorded as failed.
    """
    try:
        wanted = Evaluation.model_validate_json(evaluation) if evaluation else None
        read = Trial.model_validate_json(trial)
    except ValidationError as error:
        reasons = "; ".join(found["msg"] for found in error.errors())
        failure = RuntimeError(f"{reasons}; every machine needs the packages of all components, in the same versions")
        if not measure_only:
            with folder.lock(LOCK_SECONDS):
                recorder = Recorder(folder, sink)
                record_failure(failure, folder, recorder)
                close(recorder, CLOSE_SECONDS)
        raise failure from error
    if measure_only and wanted is not None:
        values = yield from evaluation_steps(read, wanted, folder, sink=sink, device=device)
    else:
        values = yield from trial_steps(read, wanted, folder, sink=sink, device=device)
    return values
