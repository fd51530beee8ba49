"""The networks. All standardise their input inside, so that attacks work on pixels in [0, 1]."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from orchestrator.spec.base import Component, Integer, Registry


class Model(Component):
    """Base of the networks."""


MODELS = Registry("model", Model, "models")

Width = Annotated[Integer, Field(ge=1, le=4096)]


@MODELS.register
class SmallPreActResNet(Model):
    """Pre-activation ResNet with three stages of basic blocks (w, 2w, 4w channels), for 8x8 to 28x28 images."""

    implementation = "workers.models.resnet:small_preact_resnet"

    name: Literal["small_preact_resnet"] = "small_preact_resnet"
    width: Width = 16
    """w: channels of the first stage."""
    blocks: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Residual blocks in each stage."""


@MODELS.register
class PreActResNet18(Model):
    """Pre-activation ResNet-18 with a 3x3 stem, for 32x32 images (Wu20's network; 11.2 M parameters at width 64)."""

    implementation = "workers.models.resnet:preact_resnet18"

    name: Literal["preact_resnet18"] = "preact_resnet18"
    width: Width = 64
    """Channels of the first stage."""


@MODELS.register
class ResNet18(Model):
    """ResNet-18 with a 3x3 stem, for 32x32 images (Stutz21's network)."""

    implementation = "workers.models.resnet:resnet18"

    name: Literal["resnet18"] = "resnet18"
    width: Width = 64
    """Channels of the first stage."""


@MODELS.register
class WideResNet(Model):
    """Wide ResNet-depth-widen (Zagoruyko & Komodakis 2016, arXiv 1605.07146): 28-10 and 34-10 in robustness papers."""

    implementation = "workers.models.resnet:wide_resnet"

    name: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[Integer, Field(ge=10, le=1000)] = 28
    """Layers: 6n + 4."""
    widen: Annotated[Integer, Field(ge=1, le=64)] = 10
    """Factor on the 16, 32, 64 channels of the three stages."""

    @field_validator("depth")
    @classmethod
    def _six_n_plus_four(cls, depth: int) -> int:
        if (depth - 4) % 6:
            raise ValueError(f"depth {depth} is not 6n + 4 (10, 16, 22, 28, 34, ...)")
        return depth
