"""The networks. All standardise their input inside, so that attacks work on pixels in [0, 1]."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import suggest
from orchestrator.spec import architectures
from orchestrator.spec.architectures import ARCHITECTURES, LEFT_OUT, PATCHES, Architecture
from orchestrator.spec.base import Component, Integer, Registry, added_field, problem


class Model(Component):
    """Base of the networks."""

    @property
    def smallest_side(self) -> int:
        """Smallest image side in pixels: below it a layer fails, or one that shrinks its input sees a single pixel."""
        return 1

    @property
    def has_relu(self) -> bool:
        """Whether the network's activations are ReLUs, which the regulariser `activation` replaces."""
        return True

    def misfit(self, height: int, width: int) -> str | None:
        """Why images of this size (in pixels) cannot go through the network, in words; None if they can."""
        if min(height, width) < self.smallest_side:
            side = self.smallest_side
            return f"{self.label()} needs images of at least {side} x {side} pixels, not {height} x {width}"
        return None


MODELS = Registry("model", Model, "models")

Width = Annotated[Integer, Field(ge=1, le=4096)]
Norm = Annotated[
    Literal["bn", "gn", "none"],
    Field(
        description="`bn`: batch normalisation; `gn`: group normalisation (Wu & He 2018, arXiv 1803.08494) in as many "
        "equal groups as there can be, at most 32 and of at least 16 channels; `none`: convolutions with biases, He's "
        "initial weights, in residual networks scaled as by Zhang et al. 2019 (arXiv 1901.09321)."
    ),
]


@MODELS.register
class SmallPreActResNet(Model):
    """Pre-activation ResNet with three stages of basic blocks (w, 2w, 4w channels), for 8x8 to 28x28 images."""

    implementation = "workers.models.resnet:small_preact_resnet"

    name: Literal["small_preact_resnet"] = "small_preact_resnet"
    width: Width = 16
    """w: channels of the first stage."""
    blocks: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Residual blocks in each stage."""
    norm: Norm = added_field("bn")

    @property
    def smallest_side(self) -> int:
        """Two stages halve the image."""
        return 3


@MODELS.register
class PreActResNet18(Model):
    """Pre-activation ResNet-18 with a 3x3 stem, for 32x32 images (Wu20's network; 11.2 M parameters at width 64)."""

    implementation = "workers.models.resnet:preact_resnet18"

    name: Literal["preact_resnet18"] = "preact_resnet18"
    width: Width = 64
    """Channels of the first stage."""
    norm: Norm = added_field("bn")

    @property
    def smallest_side(self) -> int:
        """Three stages halve the image."""
        return 5


@MODELS.register
class ResNet18(Model):
    """ResNet-18 with a 3x3 stem, for 32x32 images (Stutz21's network)."""

    implementation = "workers.models.resnet:resnet18"

    name: Literal["resnet18"] = "resnet18"
    width: Width = 64
    """Channels of the first stage."""
    norm: Norm = added_field("bn")

    @property
    def smallest_side(self) -> int:
        """Three stages halve the image."""
        return 5


@MODELS.register
class WideResNet(Model):
    """Wide ResNet-depth-widen (Zagoruyko & Komodakis 2016, arXiv 1605.07146): 28-10 and 34-10 in robustness papers."""

    implementation = "workers.models.resnet:wide_resnet"

    name: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[Integer, Field(ge=10, le=1000)] = 28
    """Layers: 6n + 4."""
    widen: Annotated[Integer, Field(ge=1, le=64)] = 10
    """Factor on the 16, 32, 64 channels of the three stages."""
    norm: Norm = added_field("bn")

    @field_validator("depth")
    @classmethod
    def _six_n_plus_four(cls, depth: int) -> int:
        if (depth - 4) % 6:
            raise ValueError(f"depth {depth} is not 6n + 4 (10, 16, 22, 28, 34, ...)")
        return depth

    @property
    def smallest_side(self) -> int:
        """Two stages halve the image."""
        return 3


@MODELS.register
class Cnn(Model):
    """A plain CNN: three stages (w, 2w, 4w channels) of 3x3 convolutions, 2x2 max pooling between, for 8x8 to 32x32."""

    implementation = "workers.models.plain:cnn"

    name: Literal["cnn"] = "cnn"
    width: Width = 32
    """w: channels of the first stage."""
    depth: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Convolutions in each stage, each with normalisation and ReLU."""
    norm: Norm = added_field("bn")

    @property
    def smallest_side(self) -> int:
        """Two poolings halve the image."""
        return 4


@MODELS.register
class Vgg16(Model):
    """VGG-16 (Simonyan & Zisserman 2015, arXiv 1409.1556) with batch normalisation, for 32x32 images.

    13 convolutions and, as is usual for CIFAR, a single linear layer: 14.7 M parameters at width 64.
    """

    implementation = "workers.models.plain:vgg16"

    name: Literal["vgg16_bn"] = "vgg16_bn"
    width: Width = 64
    """Channels of the first stage; the others have 2, 4, 8 and 8 times as many."""
    norm: Norm = added_field("bn")

    @property
    def smallest_side(self) -> int:
        """Five poolings halve the image."""
        return 32


@MODELS.register
class VitSmall(Model):
    """Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), DeiT-S's size, for 32x32 images; patch 2 for 8x8.

    Normalisation before attention and MLP, learned positions, GELU. The mean over the patches is classified, not a
    class token (Beyer et al. 2022, arXiv 2205.01580), so that no parameter but the positions lies outside a layer.
    """

    implementation = "workers.models.vit:vit_small"

    name: Literal["vit_small"] = "vit_small"
    patch: Annotated[Integer, Field(ge=1, le=64)] = 4
    """Side of a patch in pixels; the image's sides must be multiples of it."""
    width: Width = 384
    """Numbers per patch; a multiple of `heads`. The MLPs are four times as wide."""
    depth: Annotated[Integer, Field(ge=1, le=64)] = 12
    """Blocks of attention and MLP."""
    heads: Annotated[Integer, Field(ge=1, le=64)] = 6
    """Attention heads."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise problem(f"{self.heads} heads do not divide the width {self.width}", "heads")
        return self

    @property
    def smallest_side(self) -> int:
        """Two patches: with one there is nothing to attend to."""
        return 2 * self.patch

    @property
    def has_relu(self) -> bool:
        """GELU only."""
        return False

    def misfit(self, height: int, width: int) -> str | None:
        """Whole patches only."""
        return super().misfit(height, width) or _no_whole_patches(self.label(), self.patch, height, width)


@MODELS.register
class Torchvision(Model):
    """One of torchvision's classification networks, with new weights; classes and channels are those of the data.

    Made for images of 224 pixels: at 32 most of them shrink the image to a single pixel. Auxiliary heads are off.
    """

    implementation = "workers.models.vision:network"

    name: Literal["torchvision"] = "torchvision"
    architecture: Architecture
    """torchvision's name of the network, such as `resnet50`; `maxvit_t` and `squeezenet1_*` are left out."""

    @field_validator("architecture", mode="before")
    @classmethod
    def _known(cls, name: object) -> object:
        if isinstance(name, str) and name in LEFT_OUT:
            raise ValueError(f"'{name}' cannot be used: {LEFT_OUT[name]}")
        if isinstance(name, str) and name not in ARCHITECTURES:
            raise PydanticCustomError(
                "unknown_name",
                "torchvision has no architecture '{name}'; {hint}",
                {"name": name, "hint": suggest(name, ARCHITECTURES)},
            )
        return name

    @property
    def smallest_side(self) -> int:
        """As counted for the architecture."""
        return architectures.smallest_side(self.architecture)

    @property
    def has_relu(self) -> bool:
        """Whether all of the architecture's activations can be replaced."""
        return architectures.has_relu(self.architecture)

    def misfit(self, height: int, width: int) -> str | None:
        """A ViT takes square images of whole patches only."""
        found = super().misfit(height, width)
        if found is None and self.architecture in PATCHES:
            if height != width:
                return f"{self.label()} needs square images, not {height} x {width}"
            return _no_whole_patches(self.label(), PATCHES[self.architecture], height, width)
        return found


def _no_whole_patches(label: str, patch: int, height: int, width: int) -> str | None:
    if height % patch or width % patch:
        return f"{label} needs images whose sides are multiples of its patches' {patch} pixels, not {height} x {width}"
    return None
