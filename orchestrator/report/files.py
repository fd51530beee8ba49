"""What a report takes from the sweep's folder: curves of training from the journals, drawn landscapes."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.report.plots import Curves
from workers.journal import content, record_of
from workers.storage import Folder

TRAINING = ("train/loss", "train/error", "validation/robust_loss", "validation/robust_error")
"""What training records after each epoch, that a reader wants to see along the way."""
LANDSCAPE_BYTES = 1_200_000
"""Of all landscapes in a page together: a surface for each of a thousand networks stays in the folder."""
OF_A_TRIAL = re.compile(r"-[0-9a-f]{16}(-|$)")


@dataclass(frozen=True)
class Landscape:
    """One figure."""

    name: str
    address: str
    """The figure itself, as a `data:` address."""


def training_curves(folder: Folder, trials: Iterable[str]) -> dict[str, Curves]:
    """Trial id -> what training recorded, from the journals; trials without a journal are left out.

    Args:
        folder: of the sweep.
        trials: ids.
    """
    found: dict[str, Curves] = {}
    for trial_id in trials:
        curves = _metrics(content(folder / trial_id))
        if curves:
            found[trial_id] = curves
    return found


def _metrics(journal: bytes) -> dict[str, list[tuple[int, float]]]:
    """Points of the metrics of `TRAINING`, by column; the first at an epoch counts, as in the journal itself.

    Lines that were cut short are skipped here, in silence: a trial may be writing, and the next submit mends them.
    """
    points: dict[str, dict[int, float]] = {}
    for line in journal.splitlines(keepends=True):
        # most lines are of other kinds, and a thousand journals are read
        if b'"metric"' not in line or not (b"train/" in line or b"validation/" in line):
            continue
        try:
            record = record_of(line)
        except ValueError:
            continue
        if record.kind == "metric" and record.key in TRAINING:
            points.setdefault(record.key.replace("/", "_"), {}).setdefault(record.step, record.value)
    return {name: sorted(curve.items()) for name, curve in points.items()}


def landscapes(folder: Folder) -> tuple[list[Landscape], list[str]]:
    """The figures `landscape*.svg` of a folder, and the names of those that would make the page too large.

    Figures of many networks come first, then those of single trials.
    """
    files = [name for name in folder.names() if name.startswith("landscape") and name.endswith(".svg")]
    shown, left, room = [], [], LANDSCAPE_BYTES
    for name in sorted(files, key=lambda name: (bool(OF_A_TRIAL.search(name.removesuffix(".svg"))), name)):
        code = base64.b64encode(folder.read(name)).decode()
        if len(code) > room:
            left.append(name)
            continue
        room -= len(code)
        shown.append(Landscape(name.removesuffix(".svg"), f"data:image/svg+xml;base64,{code}"))
    return shown, left
