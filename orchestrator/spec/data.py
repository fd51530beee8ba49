"""The data sets: which images, how they are split, how they are augmented. Reading them is left to workers/data."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.base import Component, Integer, Registry, Spec, added_field, location, problem

Augmentation = Literal["none", "crop", "crop_flip"]
Count = Annotated[Integer, Field(ge=1)]


class UnlabeledImages(Spec):
    """Further training images without labels, for the method `unlabeled`."""

    size: Count | None = None
    """So many images: held out of the training images, their labels never looked at; or, with `path`, so many of the
    file's, a random subset (all if not given)."""
    path: str | None = location(None)
    """An .npz file with uint8 N x H x W x C `x` and, if it has any, integer pseudo-labels `y`; relative to the sweep
    file. Where it lies is no part of a trial's identity, `title` is."""
    title: str = ""
    """What identifies the file in a trial's id; its name without ending if left out."""

    @model_validator(mode="before")
    @classmethod
    def _title_from_path(cls, data: Any) -> Any:
        return _with_title(data)

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.size is None and self.path is None:
            raise problem("where from? give `size`, to hold some training images out, or the `path` of a file")
        return self


def _with_title(data: Any) -> Any:
    """`title` from the name of the file at `path`, where it was left out."""
    if isinstance(data, dict) and isinstance(data.get("path"), str) and not data.get("title"):
        return data | {"title": Path(data["path"]).stem}
    return data


def _absolute(path: str, base: Path) -> str:
    return str((base / Path(path).expanduser()).absolute())


class Data(Component):
    """Base of the data sets.

    The validation images are cut from the training images by `split_seed`, never from the test images.
    """

    split_seed: Annotated[Integer, Field(ge=0)] = 0
    """Seed of the split and of which images are taken; the trial's own seed changes neither."""
    train_size: Count | None = None
    """Training images taken, a random subset; all that are left if not given."""
    validation_size: Annotated[Integer, Field(ge=0)] = 0
    """Images held out of the training images for validation."""
    test_size: Count | None = None
    """Test images taken, a random subset; all if not given."""
    augmentation: Augmentation = "none"
    """`crop`: random crop after zero padding; `crop_flip`: and a horizontal flip with probability 1/2."""
    padding: Annotated[Integer, Field(ge=0, le=64)] = 4
    """Pixels of zero padding before a crop."""
    unlabeled: UnlabeledImages | None = added_field(None)
    """Images without labels, for the method `unlabeled`."""

    side: ClassVar[int | None] = None
    """Height and width of the images in pixels, where every file of this data set has the same."""

    def located(self, base: Path) -> Self:
        """The same data set with its paths made absolute, taken relative to the sweep file's folder `base`."""
        if self.unlabeled is None or self.unlabeled.path is None:
            return self
        located = self.unlabeled.model_copy(update={"path": _absolute(self.unlabeled.path, base)})
        return self.model_copy(update={"unlabeled": located})

    def files(self) -> tuple[Path, ...]:
        """Files whose change means that a worker which has the data set in memory reads it again."""
        return (Path(self.unlabeled.path),) if self.unlabeled and self.unlabeled.path else ()

    def obstacle(self) -> str | None:
        """What keeps it from being read, as far as that shows without torch; asked before anything is started."""
        if self.unlabeled and self.unlabeled.path and not Path(self.unlabeled.path).is_file():
            return f"unlabeled: there is no file {self.unlabeled.path}"
        return None


DATA = Registry("data set", Data, "datasets")


@DATA.register
class Digits(Data):
    """scikit-learn's handwritten digits: 1,797 real 8x8 images in 10 classes; nothing is downloaded."""

    implementation = "workers.data.digits:load"

    side = 8

    name: Literal["digits"] = "digits"
    validation_size: Annotated[Integer, Field(ge=0)] = 197
    """Images held out for validation."""
    test_size: Count | None = 600
    """Test images; scikit-learn has no split of its own, so all three sets are cut by `split_seed`."""


class Torchvision(Data):
    """A data set that torchvision reads, with its own training and test images."""

    root: str = location("data")
    """Folder of the files, relative to the sweep file; where it lies is no part of a trial's identity."""
    download: bool = location(False)
    """Let torchvision download what is missing."""

    def obstacle(self) -> str | None:
        """The folder is missing and may not be made."""
        if self.download or Path(self.root).is_dir():
            return super().obstacle()
        return f"root: there is no folder {self.root}; `download: true` makes it and fetches {self.name}"

    def located(self, base: Path) -> Self:
        """With `root` made absolute."""
        return super().located(base).model_copy(update={"root": _absolute(self.root, base)})


@DATA.register
class Mnist(Torchvision):
    """MNIST: 60,000 + 10,000 images, 28x28, 10 classes."""

    implementation = "workers.data.vision:load"

    side = 28

    name: Literal["mnist"] = "mnist"


@DATA.register
class FashionMnist(Torchvision):
    """Fashion-MNIST: 60,000 + 10,000 images, 28x28, 10 classes."""

    implementation = "workers.data.vision:load"

    side = 28

    name: Literal["fashion_mnist"] = "fashion_mnist"


@DATA.register
class Cifar10(Torchvision):
    """CIFAR-10: 50,000 + 10,000 images, 32x32x3, 10 classes."""

    implementation = "workers.data.vision:load"

    side = 32

    name: Literal["cifar10"] = "cifar10"
    augmentation: Augmentation = "crop_flip"
    """`crop`: random crop after zero padding; `crop_flip`: and a horizontal flip with probability 1/2."""


@DATA.register
class Cifar100(Torchvision):
    """CIFAR-100: 50,000 + 10,000 images, 32x32x3, 100 classes."""

    implementation = "workers.data.vision:load"

    side = 32

    name: Literal["cifar100"] = "cifar100"
    augmentation: Augmentation = "crop_flip"
    """`crop`: random crop after zero padding; `crop_flip`: and a horizontal flip with probability 1/2."""


@DATA.register
class Svhn(Torchvision):
    """SVHN: 73,257 + 26,032 images, 32x32x3, 10 classes. No flip by default: mirrored digits are not digits."""

    implementation = "workers.data.vision:load"

    side = 32

    name: Literal["svhn"] = "svhn"
    augmentation: Augmentation = "crop"
    """`crop`: random crop after zero padding; `crop_flip`: and a horizontal flip with probability 1/2."""


@DATA.register
class Npz(Data):
    """Any image classification set in one .npz file: uint8 NHWC `x_train`, `x_test`, integer `y_train`, `y_test`."""

    implementation = "workers.data.npz:load"

    name: Literal["npz"] = "npz"
    path: str = location()
    """The file, relative to the sweep file; where it lies is no part of a trial's identity, `title` is."""
    title: str = ""
    """What identifies the data set in a trial's id; the file's name without ending if left out."""
    classes: Annotated[Integer, Field(ge=2)] | None = None
    """Number of classes; the largest training label + 1 if left out."""

    @model_validator(mode="before")
    @classmethod
    def _title_from_path(cls, data: Any) -> Any:
        return _with_title(data)

    def files(self) -> tuple[Path, ...]:
        """The file of labelled images, and that of the others."""
        return (Path(self.path), *super().files())

    def obstacle(self) -> str | None:
        """Whatever is wrong with the file: reading it takes numpy only."""
        try:
            self.load()(self)
        except ValueError as error:
            return str(error)
        return super().obstacle()

    def located(self, base: Path) -> Self:
        """With `path` made absolute."""
        return super().located(base).model_copy(update={"path": _absolute(self.path, base)})
