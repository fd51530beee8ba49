"""Training, validation and test images on the device: cut once by the split's own seed, kept as uint8."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.spec.data import Data
from workers.data.arrays import Arrays, BadArraysError
from workers.data.unlabeled import Unlabeled, load_unlabeled
from workers.failures import DataError
from workers.seeding import generator

CPU = torch.device("cpu")


class Images(NamedTuple):
    """x: uint8, N x C x H x W; y: int64, N. Both on the device."""

    x: Tensor
    y: Tensor

    def first(self, count: int) -> "Images":
        """The first `count` images, or all where there are fewer."""
        return Images(self.x[:count], self.y[:count])

    def __len__(self) -> int:  # of images, not of fields
        return len(self.y)


@dataclass(frozen=True)
class Splits:
    """The three sets of a trial; the validation images are never test images."""

    train: Images
    validation: Images
    test: Images
    classes: int
    digest: str
    """SHA-256 of all pixels and labels of the data set, in hex."""
    unlabeled: Images | None = None
    """Images without labels: y holds pseudo-labels where a file gave them, else -1."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width


def load_splits(spec: Data, device: torch.device) -> Splits:
    """Reads, cuts and moves a data set; the last ones stay in memory, as the trials of a sweep share them.

    Raises:
        DataError: the data cannot be read or are too few for the sizes asked for.
    """
    return _cached(spec, _stamp(spec), device)


def _stamp(spec: Data) -> tuple[int, ...]:
    """Changes when a file does, so that a warm worker reads them again."""
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in spec.files())


@lru_cache(maxsize=2)
def _cached(spec: Data, _version: tuple[int, ...], device: torch.device) -> Splits:
    try:
        read: Arrays = spec.load()(spec)
        arrays = Arrays.checked(read.x_train, read.y_train, read.x_test, read.y_test, read.classes)
        further = load_unlabeled(spec, arrays)
    except BadArraysError as error:
        raise DataError(str(error)) from error
    return cut(arrays, spec, device, further)


def cut(arrays: Arrays, spec: Data, device: torch.device = CPU, further: Unlabeled | None = None) -> Splits:
    """Cuts the arrays as `spec` says; `further` are the images of `spec.unlabeled.path`.

    Raises:
        DataError: there are too few images.
    """
    train_order = torch.randperm(len(arrays.x_train), generator=generator(CPU, spec.split_seed, "train split"))
    if arrays.x_test is None or arrays.y_test is None:
        if spec.test_size is None:
            raise DataError(f"{spec.name} has no test images of its own: give test_size")
        test_source, test_labels = arrays.x_train, arrays.y_train
        test_order, train_order = train_order[: spec.test_size], train_order[spec.test_size :]
    else:
        test_source, test_labels = arrays.x_test, arrays.y_test
        test_order = torch.arange(len(test_source))
        if spec.test_size is not None and spec.test_size < len(test_source):
            shuffled = torch.randperm(len(test_source), generator=generator(CPU, spec.split_seed, "test split"))
            test_order = shuffled[: spec.test_size]
    if spec.test_size is not None and len(test_order) < spec.test_size:
        raise DataError(f"{spec.name} has {len(test_order)} test images, test_size asks for {spec.test_size}")
    validation_order, train_order = train_order[: spec.validation_size], train_order[spec.validation_size :]
    hidden = spec.unlabeled.size if spec.unlabeled and spec.unlabeled.path is None else 0
    hidden_order, train_order = train_order[: hidden or 0], train_order[hidden or 0 :]
    wanted = 1 if spec.train_size is None else spec.train_size
    if len(train_order) < wanted:
        held = f"{len(validation_order)} for validation" + (f" and {hidden} without labels" if hidden else "")
        raise DataError(
            f"{spec.name} has {len(train_order)} training images left after {held}, train_size asks for {wanted}"
        )
    train_order = train_order[: spec.train_size]
    x_train, y_train = torch.from_numpy(arrays.x_train), torch.from_numpy(arrays.y_train)
    unlabeled, digest = None, arrays.digest()
    if further is not None:
        unlabeled, digest = _subset(further, spec, device), further.digest(after=digest)
    elif hidden:
        unlabeled = _images(x_train, torch.full_like(y_train, -1), hidden_order, device)
    return Splits(
        train=_images(x_train, y_train, train_order, device),
        validation=_images(x_train, y_train, validation_order, device),
        test=_images(torch.from_numpy(test_source), torch.from_numpy(test_labels), test_order, device),
        classes=arrays.classes,
        digest=digest,
        unlabeled=unlabeled,
    )


def _images(pixels: Tensor, labels: Tensor, order: Tensor, device: torch.device) -> Images:
    # N x H x W x C in memory seen as N x C x H x W: the channels_last layout, which convolutions like best
    return Images(pixels[order].permute(0, 3, 1, 2).to(device), labels[order].to(device))


def _subset(further: Unlabeled, spec: Data, device: torch.device) -> Images:
    """As many images of the file as `spec.unlabeled.size` says, drawn by the split's seed."""
    assert spec.unlabeled is not None  # noqa: S101  (there are further images only then)
    size, count = spec.unlabeled.size, len(further.x)
    if size is not None and size > count:
        raise DataError(f"{spec.unlabeled.path} has {count} images, unlabeled.size asks for {size}")
    order = torch.randperm(count, generator=generator(CPU, spec.split_seed, "unlabeled"))[:size]
    labels = torch.full((count,), -1) if further.y is None else torch.from_numpy(further.y)
    return _images(torch.from_numpy(further.x), labels, order, device)
