"""Names inside a trial's folder, shared by the workers that write them and the planner that reads them; no torch."""

import re

from orchestrator.spec.base import digest
from orchestrator.spec.measures import Measure

TRIAL = "trial.json"
DATA = "data.json"
ERROR = "error.txt"
CHECKPOINTS = "checkpoints"
MEASURES = "measures"

HASH_DIGITS = 16

_CHECKPOINT = re.compile(rf"epoch-(\d{{6}})-batch-(\d{{7}})-([0-9a-f]{{{HASH_DIGITS}}})\.pt")


def checkpoint_name(epoch: int, batch: int, content_hash: str) -> str:
    """Name of a checkpoint after `epoch` whole epochs and `batch` batches of the next; later ones sort higher."""
    return f"epoch-{epoch:06d}-batch-{batch:07d}-{content_hash[:HASH_DIGITS]}.pt"


def parse_checkpoint(name: str) -> tuple[int, int, str] | None:
    """(epoch, batch, first digits of the content's hash) of a checkpoint's name; None for any other file."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def result_name(measure: Measure, seed: int) -> str:
    """File name of a measure's result: it holds the hash of all settings, so that other settings lie beside it."""
    return f"{measure.name}-{digest({'measure': measure, 'seed': seed})}.json"
