"""What one sweep of the runner consists of: its file, its data, its storage, and where it is recorded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking_place import ARTIFACTS, DATABASE
from workers import layout
from workers.journal import read_records
from workers.storage import Folder

ATTACK = {"steps": 2, "step_size": 0.05}
SWEEP: dict[str, Any] = {
    "name": "chaos",
    "data": {"name": "npz", "path": "digits.npz", "title": "digits", "train_size": 120, "validation_size": 40},
    "model": {"name": "small_preact_resnet", "width": 2},
    "training": {
        "epochs": 3,
        "batch_size": 40,
        "attack": {"eps": 0.15, **ATTACK},
        "schedule": "cosine",
        "early_stopping": {"every": 2, "examples": 40, "attack": ATTACK},
        "keep_every": 2,
    },
    "grid": {"methods": ["at", {"name": "awp", "over": "at", "gamma": 0.02}],
             "regularizers": ["none", [{"name": "label_noise", "rate": 0.3}, "weight_averaging"]], "seeds": [0]},
    "evaluation": {
        "checkpoints": ["last", "best", "kept"],
        "measures": [
            {"name": "robustness", "attack": ATTACK, "train_examples": 40, "test_examples": 40},
            {"name": "average_flatness", "draws": 2, "examples": 20, "attack": ATTACK},
        ],
    },
}  # fmt: skip
DATA = "digits.npz"


def write_digits(file: Path, changed: bool = False) -> None:
    """scikit-learn's digits as a data set in a file; `changed`: with one pixel of the first image another."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    pixels[0, 0, 0, 0] += changed
    labels = labels.astype(np.int64)
    np.savez(file, x_train=pixels[:1437], y_train=labels[:1437], x_test=pixels[1437:], y_test=labels[1437:])


@dataclass
class Place:
    """One sweep, as it is at this moment."""

    folder: Path
    root: str = "runs"
    """Of the storage, in the folder."""
    uri: str | None = None
    """Of the server that it is recorded on; None: SQLite in its storage."""
    small: bool = False
    """Whether its file has only the first method."""

    @property
    def storage(self) -> Path:
        return self.folder / self.root

    @property
    def trials(self) -> list[Path]:
        """The folders of its trials that are there."""
        root = self.storage / SWEEP["name"]
        return sorted(path.parent for path in root.glob(f"*/{layout.TRIAL}"))

    @property
    def database(self) -> Path:
        return self.folder / "server.db" if self.uri else self.storage / DATABASE

    @property
    def artifacts(self) -> Path:
        return self.folder / "served" if self.uri else self.storage / ARTIFACTS

    def file(self) -> SweepFile:
        """The sweep, read."""
        grid = SWEEP["grid"] | ({"methods": SWEEP["grid"]["methods"][:1]} if self.small else {})
        data = SWEEP["data"] | {"path": str(self.folder / DATA)}
        text = json.dumps(SWEEP | {"grid": grid}, indent=1)
        (self.folder / "chaos.yaml").write_text(text)
        sweep = Sweep.model_validate(SWEEP | {"storage": str(self.storage), "data": data, "grid": grid})
        return SweepFile(sweep, text, self.folder / "chaos.yaml", read_at_commit="")


def ended(trial: Path) -> bool:
    """Whether a trial's journal says that it is finished."""
    states = [record.text for record in read_records(Folder(str(trial))) if record.kind == "state"]
    return states[-1:] == ["finished"]
