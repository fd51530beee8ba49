"""Images without labels from an .npz file: `x`, and pseudo-labels `y` if it has any; numpy only."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.spec.data import Data
from workers.data.arrays import Arrays, BadArraysError, checked_images, checked_labels
from workers.data.npz import read_npz


@dataclass(frozen=True)
class Unlabeled:
    """x: uint8, N x H x W x C. y: pseudo-labels, int64 in [0, classes), N; None where the file has none."""

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64] | None

    def digest(self, after: str) -> str:
        """SHA-256 in hex over `after`, the digest of the labelled images, and everything here."""
        total = hashlib.sha256(after.encode())
        for array in (self.x, self.y):
            if array is not None:
                total.update(f"{array.dtype}{array.shape}".encode())
                total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()


def load_unlabeled(spec: Data, labelled: Arrays) -> Unlabeled | None:
    """What is in the file of `spec.unlabeled`; None where it names none.

    Raises:
        BadArraysError: missing or corrupt file, images of another shape than the labelled ones, bad labels.
    """
    if spec.unlabeled is None or spec.unlabeled.path is None:
        return None
    path = Path(spec.unlabeled.path)
    arrays = read_npz(path, required=("x",), optional=("y",))
    try:
        x = checked_images("x", arrays["x"])
        if x.shape[1:] != labelled.x_train.shape[1:]:
            raise BadArraysError(
                f"images without labels are {x.shape[1:]}, training images {labelled.x_train.shape[1:]}"
            )
        y = checked_labels("y", arrays["y"], len(x), labelled.classes) if "y" in arrays else None
    except BadArraysError as error:
        raise BadArraysError(f"{path}: {error}") from error
    return Unlabeled(x, y)
