"""The data sets that torchvision reads, as arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision import datasets

from orchestrator.spec.data import Torchvision
from workers.data.arrays import Arrays, BadArraysError

CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "svhn": 10}


def load(spec: Torchvision) -> Arrays:
    """Reads the files under `spec.root`, downloading them first if `spec.download` says so.

    Raises:
        BadArraysError: files are missing or damaged, or the download failed.
    """
    try:
        (x_train, y_train), (x_test, y_test) = (_read(spec, train) for train in (True, False))
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, AssertionError) as error:
        hint = "" if spec.download else " (`download: true` fetches it)"
        reason = str(error) or "a file is damaged"  # torchvision asserts a file's header without a message
        raise BadArraysError(f"cannot read {spec.name} under {spec.root}: {reason}{hint}") from error
    return Arrays(x_train, y_train, x_test, y_test, CLASSES[spec.name])


def _read(spec: Torchvision, train: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    where: dict[str, Any] = {"root": spec.root, "download": spec.download}
    match spec.name:
        case "mnist" | "fashion_mnist":
            kind = datasets.MNIST if spec.name == "mnist" else datasets.FashionMNIST
            grey = kind(train=train, **where)
            return grey.data.numpy()[..., None], grey.targets.numpy().astype(np.int64)
        case "cifar10" | "cifar100":
            kind = datasets.CIFAR10 if spec.name == "cifar10" else datasets.CIFAR100
            colour = kind(train=train, **where)
            return np.asarray(colour.data), np.asarray(colour.targets, dtype=np.int64)
        case "svhn":
            numbers = datasets.SVHN(split="train" if train else "test", **where)
            return numbers.data.transpose(0, 2, 3, 1), numbers.labels.astype(np.int64)
    raise ValueError(f"no torchvision data set is called {spec.name}")
