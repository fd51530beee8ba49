"""Batches of training images, shuffled and augmented on the device by functions of (seed, epoch, batch)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.data import Data
from workers.data.splits import Images
from workers.seeding import generator


class TrainingBatches:
    """The batches of one epoch, a pass over the labelled images; any can be made without those before it.

    Args:
        images: the training images.
        spec: says how to augment.
        batch_size: images in a batch; the last one may be smaller.
        seed: the trial's seed.
        unlabeled: images with pseudo-labels, mixed into every batch.
        fraction: their share of a batch, rounded to whole images.
    """

    def __init__(
        self,
        images: Images,
        spec: Data,
        batch_size: int,
        seed: int,
        unlabeled: Images | None = None,
        fraction: float = 0.0,
    ) -> None:
        self._images, self._unlabeled, self._spec, self._seed = images, unlabeled, spec, seed
        self._further = round(fraction * batch_size) if unlabeled is not None else 0
        self._labelled = batch_size - self._further
        self._orders: dict[str, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._labelled)

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Images in [0, 1], float32, B x C x H x W, and labels, int64, B."""
        order = self._order("shuffle", epoch, self._images)
        chosen = order[index * self._labelled : (index + 1) * self._labelled]
        x, y = _taken(self._images.x, chosen), self._images.y[chosen]
        if self._unlabeled is not None:
            x, y = self._mixed(x, y, self._unlabeled, epoch, index)
        if self._spec.augmentation != "none":
            random = generator(x.device, self._seed, "augment", epoch, index)
            x = random_crop(x, self._spec.padding, random)
            if self._spec.augmentation == "crop_flip":
                x = random_flip(x, random)
        return to_unit(x), y

    def _mixed(self, x: Tensor, y: Tensor, unlabeled: Images, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """The labelled images of a batch and their share of the others, in random order."""
        count = max(1, round(len(y) * self._further / self._labelled))
        order = self._order("shuffle unlabeled", epoch, unlabeled)
        place = torch.arange(count, device=order.device) + index * self._further
        chosen = order[place % len(order)]
        random = generator(torch.device("cpu"), self._seed, "mix unlabeled", epoch, index)
        mixed = torch.randperm(len(y) + count, generator=random).to(order.device)
        return torch.cat([x, unlabeled.x[chosen]])[mixed], torch.cat([y, unlabeled.y[chosen]])[mixed]

    def _order(self, purpose: str, epoch: int, images: Images) -> Tensor:
        """A permutation of the images, drawn for each epoch."""
        if purpose not in self._orders or self._orders[purpose][0] != epoch:
            shuffle = generator(torch.device("cpu"), self._seed, purpose, epoch)
            self._orders[purpose] = epoch, torch.randperm(len(images), generator=shuffle).to(images.y.device)
        return self._orders[purpose][1]


def to_unit(x: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return x.to(torch.float32).div_(255)


def random_crop(x: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Each image of B x C x H x W padded with zeros on all sides and cut back to H x W at its own random place."""
    count, _, height, width = x.shape
    top, left = torch.randint(2 * padding + 1, (2, count), generator=random, device=x.device)
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # a view: images, tops, lefts, C x H x W
    return windows[torch.arange(count, device=x.device), top, left]


def random_flip(x: Tensor, random: torch.Generator) -> Tensor:
    """Each image of B x C x H x W mirrored left to right with probability 1/2."""
    flip = torch.rand(len(x), generator=random, device=x.device) < 0.5
    image = torch.arange(len(x), device=x.device)
    return _taken(torch.cat([x, x.flip(-1)]), image + len(x) * flip)


def _taken(x: Tensor, chosen: Tensor) -> Tensor:
    """`x[chosen]`; images that lie channels last, as ours do, are copied as one piece each and not byte by byte."""
    return x.permute(0, 2, 3, 1).index_select(0, chosen).permute(0, 3, 1, 2)
