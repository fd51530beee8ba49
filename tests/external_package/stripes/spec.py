"""The vocabulary: what a sweep file may say. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Integer, Number
from orchestrator.spec.data import Data
from orchestrator.spec.measures import Measure
from orchestrator.spec.methods import Method
from orchestrator.spec.models import Model
from orchestrator.spec.regularizers import Regularizer


class Stripes(Data):
    """Grey images of 8x8 pixels with horizontal (class 0) or vertical (class 1) stripes."""

    implementation = "stripes.parts:load"

    name: Literal["stripes"] = "stripes"
    count: Annotated[Integer, Field(ge=1)] = 40
    """Training images, and as many test images."""


class PooledLinear(Model):
    """Averages over the cells of a grid, then one linear layer."""

    implementation = "stripes.parts:pooled_linear"

    name: Literal["pooled_linear"] = "pooled_linear"
    cells: Annotated[Integer, Field(ge=1)] = 4
    """Cells of the grid along each side."""


class NoiseMix(Method):
    """(1 - share) * cross-entropy of clean images + share * that of images with a random sign of eps on each pixel."""

    implementation = "stripes.parts:NoiseMix"
    weight_perturbable = True

    name: Literal["noise_mix"] = "noise_mix"
    share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Weight of the noisy images."""


class RowNorm(Regularizer):
    """After each step no row of the last layer's weights is longer than `bound`."""

    implementation = "stripes.parts:RowNorm"

    name: Literal["row_norm"] = "row_norm"
    bound: Annotated[Number, Field(gt=0)]
    """Largest Euclidean norm of a row."""


class WeightNorm(Measure):
    """Euclidean norm of all parameters together."""

    implementation = "stripes.parts:weight_norm"

    name: Literal["weight_norm"] = "weight_norm"

    def keys(self) -> tuple[str, ...]:
        """One value, without unit."""
        return ("weight_norm",)
