"""Any image classification set in one .npz file: `x_train`, `y_train`, `x_test`, `y_test`; numpy only."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from orchestrator.spec.data import Npz
from workers.data.arrays import Arrays, BadArraysError

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
        return Arrays.checked(x_train, y_train, x_test, y_test, spec.classes)
    except BadArraysError as error:
        raise BadArraysError(f"{path}: {error}") from error
