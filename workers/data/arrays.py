"""Plain arrays of a data set, checked; numpy only, so that a sweep's data can be checked without torch."""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt


class BadArraysError(ValueError):
    """Arrays that are no image classification set."""


@dataclass(frozen=True)
class Arrays:
    """Images uint8, N x H x W x C; labels int64 in [0, classes). Without test images, some training ones serve."""

    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8] | None
    y_test: npt.NDArray[np.int64] | None
    classes: int

    @classmethod
    def checked(
        cls,
        x_train: npt.NDArray[Any],
        y_train: npt.NDArray[Any],
        x_test: npt.NDArray[Any] | None,
        y_test: npt.NDArray[Any] | None,
        classes: int | None = None,
    ) -> Self:
        """From arrays that may be anything; images may lack the last dimension where C is 1.

        Args:
            x_train, y_train: images and labels.
            x_test, y_test: likewise; both None where there is no published split.
            classes: the largest training label + 1 if not given.

        Raises:
            BadArraysError: a wrong dtype, shape or number, labels out of range.
        """
        x_train = checked_images("x_train", x_train)
        y_train = checked_labels("y_train", y_train, len(x_train), classes)
        classes = classes or int(y_train.max()) + 1
        if x_test is None and y_test is None:
            return cls(x_train, y_train, None, None, classes)
        if x_test is None or y_test is None:
            raise BadArraysError("x_test and y_test belong together: one of them is missing")
        x_test = checked_images("x_test", x_test)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise BadArraysError(f"training images are {x_train.shape[1:]}, test images {x_test.shape[1:]}")
        return cls(x_train, y_train, x_test, checked_labels("y_test", y_test, len(x_test), classes), classes)

    def digest(self) -> str:
        """SHA-256 over all pixels and labels, in hex."""
        total = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            if array is not None:
                total.update(f"{array.dtype}{array.shape}".encode())
                total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()


def checked_images(name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """`array` as N x H x W x C.

    Raises:
        BadArraysError: it is not uint8, not of three or four dimensions, or empty.
    """
    if array.dtype != np.uint8:
        raise BadArraysError(f"{name} is {array.dtype}, expected uint8 pixels from 0 to 255")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise BadArraysError(f"{name} has shape {array.shape}, expected N x H x W x C with C = 1 or 3")
    return array


def checked_labels(name: str, array: npt.NDArray[Any], count: int, classes: int | None) -> npt.NDArray[np.int64]:
    """`array` as int64.

    Raises:
        BadArraysError: not integers, another number than there are images, or out of [0, classes).
    """
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise BadArraysError(f"{name} is {array.dtype} of shape {array.shape}, expected one integer label per image")
    if len(array) != count:
        raise BadArraysError(f"{name} holds {len(array)} labels for {count} images")
    labels = array.astype(np.int64)
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        allowed = f"0 to {classes - 1}" if classes is not None else "0 or more"
        raise BadArraysError(f"{name} holds labels from {labels.min()} to {labels.max()}, allowed: {allowed}")
    return labels
