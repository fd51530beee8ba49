"""Pseudo-labels of images without labels, made by a teacher: a trial of its own whose network several trials share."""

from dataclasses import replace

import torch
from torch import Tensor

from orchestrator.spec.sweep import Trial
from workers import layout
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.failures import DataError, StorageError
from workers.models.classifier import Classifier
from workers.modes import frozen
from workers.storage import Folder
from workers.training import Trainer

BATCH_SIZE = 1000
"""Images that the teacher labels at once."""


def with_pseudo_labels(trial: Trial, splits: Splits, folder: Folder, device: torch.device) -> Splits:
    """The data that `trial` trains on: pseudo-labels filled in where it needs a teacher for them.

    Args:
        trial: any; one without unlabelled images gets `splits` as they are.
        splits: the data.
        folder: the trial's own; the teacher's lies beside it.
        device: where networks are.

    Raises:
        StorageError: the teacher is not trained yet.
        DataError: the file that should hold pseudo-labels has none.
    """
    if trial.unlabeled is None or splits.unlabeled is None:
        return splits
    if (spec := trial.teacher) is None:
        if bool((splits.unlabeled.y < 0).any()):
            raise DataError("labels: file, but the file of data.unlabeled has no `y`")
        return splits
    teacher = Trainer(spec, splits, folder.parent / spec.trial_id / layout.CHECKPOINTS, device)
    if not teacher.trained:
        raise StorageError(
            f"its teacher {spec.trial_id} ({spec.label()}) is not trained: run that trial first, in a folder beside "
            f"{folder}"
        )
    return replace(splits, unlabeled=Images(splits.unlabeled.x, predicted(teacher.model, splits.unlabeled.x)))


def predicted(model: Classifier, x: Tensor) -> Tensor:
    """The classes, int64, N, that a network in eval mode gives uint8 images N x C x H x W."""
    with frozen(model), torch.no_grad():
        return torch.cat([model(to_unit(part)).argmax(1) for part in torch.split(x, BATCH_SIZE)])
