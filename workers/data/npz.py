"""Images in an .npz file; numpy only."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.spec.data import Npz
from workers.data.arrays import Arrays, BadArraysError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(spec: Npz) -> Arrays:
    """Reads a classification set: `x_train`, `y_train`, `x_test`, `y_test`.

    Raises:
        BadArraysError: missing or corrupt file, missing arrays, wrong dtypes or shapes, labels out of range.
    """
    path = Path(spec.path)
    x_train, y_train, x_test, y_test = read_npz(path, KEYS).values()
    try:
        return Arrays.checked(x_train, y_train, x_test, y_test, spec.classes)
    except BadArraysError as error:
        raise BadArraysError(f"{path}: {error}") from error


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """The arrays called `required`, in that order, and those of `optional` that are there. Nothing is unpickled.

    Raises:
        BadArraysError: missing or corrupt file, or an array is missing.
    """
    if not path.is_file():
        raise BadArraysError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in required if key not in file]:
                raise BadArraysError(f"{path} lacks {', '.join(missing)}; it has {', '.join(file) or 'nothing'}")
            return {key: file[key] for key in (*required, *optional) if key in file}
    except BadArraysError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, TypeError, ValueError, RuntimeError) as error:
        # TypeError: a single .npy array under this name; RuntimeError: a damaged flag asks for what zipfile cannot do
        raise BadArraysError(f"{path} is not a readable .npz file: {error}") from error
