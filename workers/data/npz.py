"""Any image classification set in one .npz file: `x_train`, `y_train`, `x_test`, `y_test`; numpy only."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from orchestrator.spec.data import Npz
from workers.data.arrays import Arrays, BadArraysError, checked_images, checked_labels

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(spec: Npz) -> Arrays:
    """Reads the file.

    Raises:
        BadArraysError: missing or corrupt file, missing arrays, wrong dtypes or shapes, labels out of range.
    """
    path = Path(spec.path)
    if not path.is_file():
        raise BadArraysError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in KEYS if key not in file]:
                raise BadArraysError(f"{path} lacks {', '.join(missing)}; it has {', '.join(file) or 'nothing'}")
            x_train, y_train, x_test, y_test = (file[key] for key in KEYS)
    except BadArraysError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, TypeError, ValueError, RuntimeError) as error:
        # TypeError: a single .npy array under this name; RuntimeError: a damaged flag asks for what zipfile cannot do
        raise BadArraysError(f"{path} is not a readable .npz file: {error}") from error
    try:
        x_train, x_test = checked_images("x_train", x_train), checked_images("x_test", x_test)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise BadArraysError(f"training images are {x_train.shape[1:]}, test images {x_test.shape[1:]}")
        y_train = checked_labels("y_train", y_train, len(x_train), spec.classes)
        classes = spec.classes or int(y_train.max()) + 1
        y_test = checked_labels("y_test", y_test, len(x_test), classes)
    except BadArraysError as error:
        raise BadArraysError(f"{path}: {error}") from error
    return Arrays(x_train, y_train, x_test, y_test, classes)
