"""What a measure gives back, and what it keeps so that it can be stopped and go on."""

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Parts = MutableMapping[str, Any]
"""Finished parts of a measure by name, as plain JSON values: a draw, a restart. A measure that goes on skips them."""


@dataclass(frozen=True)
class Result:
    """What a measure found; `result["name"]` is a value of it.

    values: numbers with their standard errors (`<name>_se`), units as the measure's settings say.
    arrays: per-example results, curves and the like, kept as a file beside the values.
    flags: what a reader of the values must know, one sentence each: never a silent number.
    """

    values: dict[str, float]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: "Result | Mapping[str, float]") -> "Result":
        """`found` itself, or its values where a measure returned plain ones; flags what is not finite."""
        result = found if isinstance(found, Result) else cls(dict(found))
        odd = [key for key, value in result.values.items() if not math.isfinite(value)]
        flags = (f"not finite: {', '.join(odd)}",) if odd else ()
        return cls(result.values, result.arrays, (*result.flags, *flags))

    def __getitem__(self, key: str) -> float:
        """One value."""
        return self.values[key]


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values, N; 0 for a single one."""
    values = values.detach().double().flatten()
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
