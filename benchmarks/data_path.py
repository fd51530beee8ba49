"""Augmented training batches, ours against a DataLoader with torchvision's PIL transforms, without any training.

    python benchmarks/data_path.py [--repetitions 7] [--images 4096]

The images are random 32x32x3 bytes, so no file is needed. Erasing is torchvision's nearest to cutout: a square of 16
pixels that never leaves the image. One thread, as in a trial on one core; the DataLoader loads here or in 2 workers.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
from compare import interleaved, machine, print_ratios
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from orchestrator.spec.data import Digits
from orchestrator.spec.regularizers import REGULARIZERS
from workers.data.batches import TrainingBatches
from workers.data.splits import Images
from workers.labels import Labels
from workers.seeding import generator

BATCH = 128
CLASSES = 10
CASES: dict[str, tuple[list[dict[str, object]], list[object], list[object]]] = {
    "crop and flip": ([], [], []),
    "crop, flip, AutoAugment, cutout": (
        [{"name": "autoaugment"}, {"name": "cutout", "size": 16}],
        [transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)],
        [transforms.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1), value=0.5)],
    ),
}
"""Our regularisers; torchvision's transforms of PIL images; those of tensors."""


class PilImages(Dataset[tuple[Tensor, int]]):
    """The images as torchvision's data sets give them: a PIL image made from the array, then the transforms."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels, self.labels = images.x.permute(0, 2, 3, 1).numpy(), images.y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def ours(batches: TrainingBatches, regularizers: list[dict[str, object]]) -> Callable[[], None]:
    """What makes every batch of the next epoch, as a training does."""
    specs = [REGULARIZERS.parse(each) for each in regularizers]
    parts = [(spec.name, spec.load()(spec)) for spec in specs]
    epochs = itertools.count()

    def run() -> None:
        epoch = next(epochs)
        for index in range(len(batches)):
            x, y = batches.batch(epoch, index)
            labels = Labels(y, CLASSES)
            for name, part in parts:
                x, labels = part.transform(x, labels, generator(x.device, 0, name, epoch, index))

    return run


def torchvisions(images: PilImages, workers: int) -> Callable[[], None]:
    """What loads every batch of the next epoch; the workers stay from one epoch to the next."""
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def run() -> None:
        for _ in loader:
            pass

    return run


def main() -> None:
    """Prints one table per augmentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--images", type=int, default=4096, help="images in an epoch")
    arguments = parser.parse_args()
    count = arguments.images
    torch.set_num_threads(1)
    print(machine())
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    images = Images(pixels, torch.randint(CLASSES, (count,)))
    crop_flip = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    for title, (regularizers, of_pil, of_tensors) in CASES.items():
        # the spec says how to augment; the images are given
        batches = TrainingBatches(images, Digits(augmentation="crop_flip", padding=4), BATCH, seed=0)
        theirs = PilImages(images, transforms.Compose([*crop_flip, *of_pil, transforms.ToTensor(), *of_tensors]))
        alternatives = {
            "flatsweep": ours(batches, regularizers),
            "DataLoader": torchvisions(theirs, 0),
            "DataLoader with 2 workers": torchvisions(theirs, 2),
        }
        seconds = interleaved(alternatives, arguments.repetitions)
        print_ratios(f"{title}, batches of {BATCH}", seconds, "flatsweep", "images/s", lambda each: count / each)


if __name__ == "__main__":
    main()
