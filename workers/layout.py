"""Names inside a trial's folder, shared by the workers that write them and the planner that reads them; no torch."""

import re
from collections.abc import Container
from functools import lru_cache
from types import NoneType

from orchestrator.spec.base import digest
from orchestrator.spec.measures import Measure
from orchestrator.spec.sweep import Evaluation, Trial
from workers.sealed import unsealed

TRIAL = "trial.json"
EXTERNAL = "external.json"
"""In the place of `TRIAL`, of a network that was not trained here."""
DATA = "data.json"
ERROR = "error.txt"
CHECKPOINTS = "checkpoints"
MEASURES = "measures"
SNAPSHOTS = "snapshots"
"""Inside the folder of checkpoints: networks of single epochs."""
SELECTION = "selection.json"
"""Inside the folder of snapshots: which epoch is the best so far."""
LAST, BEST = "last", "best"
"""Names of a trial's networks; those of other epochs are called by `kept_name`."""

HASH_DIGITS = 16

_CHECKPOINT = re.compile(rf"epoch-(\d{{6}})-batch-(\d{{7}})-([0-9a-f]{{{HASH_DIGITS}}})\.pt")
_SNAPSHOT = re.compile(rf"epoch-(\d{{6}})-([0-9a-f]{{{HASH_DIGITS}}})\.pt")


def best_epoch(selection: bytes) -> int | None:
    """The best epoch so far, from 1, in the content of `SELECTION`.

    Raises:
        ValueError: it is damaged.
    """
    best = unsealed(selection, looked=int, best=(dict, NoneType))["best"]
    if best is not None and type(best.get("epoch")) is not int:
        raise ValueError("it says no epoch")
    return best["epoch"] if best else None


def checkpoint_name(epoch: int, batch: int, content_hash: str) -> str:
    """Name of a checkpoint after `epoch` whole epochs and `batch` batches of the next; later ones sort higher."""
    return f"epoch-{epoch:06d}-batch-{batch:07d}-{content_hash[:HASH_DIGITS]}.pt"


def parse_checkpoint(name: str) -> tuple[int, int, str] | None:
    """(epoch, batch, first digits of the content's hash) of a checkpoint's name; None for any other file."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def snapshot_name(epoch: int, content_hash: str) -> str:
    """Name of the network after `epoch` whole epochs."""
    return f"epoch-{epoch:06d}-{content_hash[:HASH_DIGITS]}.pt"


def parse_snapshot(name: str) -> tuple[int, str] | None:
    """(epoch, first digits of the content's hash) of a snapshot's name; None for any other file."""
    match = _SNAPSHOT.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def kept_name(epoch: int) -> str:
    """What the network of an epoch before the last is called beside `LAST` and `BEST`."""
    return f"epoch-{epoch:06d}"


def kept_epoch(name: str) -> int:
    """The epoch in a name that `kept_name` made."""
    return int(name.rsplit("-", 1)[-1])


def networks(trial: Trial, evaluation: Evaluation, kept: Container[int]) -> list[str]:
    """Names of the networks of a trial that are measured; `kept` holds the epochs whose snapshots are there."""
    names = [LAST]
    if BEST in evaluation.checkpoints and trial.training.early_stopping is not None:
        names.append(BEST)
    if "kept" in evaluation.checkpoints:
        names += [kept_name(epoch) for epoch in trial.training.kept_epochs if epoch in kept]
    return names


def result_name(measure: Measure, seed: int, network: str = LAST) -> str:
    """File name of a measure's result: it holds the hash of all settings, so that other settings lie beside it."""
    which = "" if network == LAST else f"{network}-"
    return f"{measure.name}-{which}{_settings_digest(measure, seed)}.json"


@lru_cache(maxsize=1024)  # a plan asks for every trial
def _settings_digest(measure: Measure, seed: int) -> str:
    return digest({"measure": measure, "seed": seed})


def arrays_name(result: str) -> str:
    """File name of the arrays beside a result."""
    return result.removesuffix(".json") + ".npz"


def parts_name(result: str) -> str:
    """File name of what is finished of a result that is not there yet."""
    return result.removesuffix(".json") + ".parts"


def evaluation_prefix(evaluation_id: str) -> str:
    """Before the names of values that `flatsweep evaluate` recorded: the sweep's own evaluation has none."""
    return f"eval/{evaluation_id}/"


def evaluated_tag(evaluation_id: str) -> str:
    """The tag that says how such an evaluation stands: running, interrupted, finished, or `failed: ...`."""
    return f"evaluated/{evaluation_id}"
