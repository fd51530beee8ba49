"""The axes of a grid, read from the labels of its rows, and pairs of rows that differ along one of them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.bootstrap import Floats, Ints

SETTING = re.compile(r"(?:^|, )([A-Za-z_][\w.]*)=")
"""Where a setting's name stands in a label such as `lr=0.1, milestones=[60, 90]`."""


@dataclass(frozen=True)
class Axis:
    """One thing that was varied."""

    name: str
    values: Ints
    """Shape (n,), each row's value, numbered."""
    labels: tuple[str, ...]
    """Of the values."""


def varied_axes(rows: pd.DataFrame) -> tuple[Axis, ...]:
    """Method, regularizer and every setting, where the rows have more than one value of it.

    A setting that a label does not name has its usual value there (`orchestrator.settings`), which is one more value.

    Args:
        rows: As `rows.usable_rows` gives them.
    """
    found = [Axis(name, *_numbered(rows[name].to_numpy(dtype=object))) for name in ("method", "regularizer")]
    number, different = _numbered(rows["setting"].to_numpy(dtype=object))  # a few labels, in many rows
    settings = [parsed_setting(label) for label in different]
    for name in dict.fromkeys(name for parsed in settings for name in parsed):
        column = np.asarray([parsed.get(name, "usual") for parsed in settings], dtype=object)
        values, labels = _numbered(column)
        found.append(Axis(name, values[number], labels))
    return tuple(axis for axis in found if len(axis.labels) > 1)


def _numbered(column: "np.ndarray[Any, np.dtype[np.object_]]") -> tuple[Ints, tuple[str, ...]]:
    """Each row's value as a number, in order of appearance, and the values."""
    numbers, different = pd.factorize(column)
    return numbers.astype(np.int64), tuple(map(str, different))


def parsed_setting(label: str) -> dict[str, str]:
    """The settings that a label names; a label of another form is one setting, `setting`.

    >>> parsed_setting("lr=0.1, milestones=[60, 90]")
    {'lr': '0.1', 'milestones': '[60, 90]'}
    """
    found = list(SETTING.finditer(label))
    if not found:
        return {"setting": label} if label else {}
    ends = [*(match.start() for match in found[1:]), len(label)]
    return {match[1]: label[match.end() : end] for match, end in zip(found, ends, strict=True)}


def others_equal(axes: Sequence[Axis], axis: Axis, held: Sequence[Ints], n: int) -> Ints:
    """Numbers the groups of rows that are equal in all axes but one, and in everything `held`; shape (n,)."""
    keys = [other.values for other in axes if other is not axis] + list(held)
    if not keys:
        return np.zeros(n, dtype=np.int64)
    return pd.DataFrame(dict(enumerate(keys))).groupby(list(range(len(keys)))).ngroup().to_numpy().astype(np.int64)


def pairs_within(groups: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Every pair of rows of one group, once, as places (i, j); in blocks of at most n pairs."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    for size in np.unique(sizes[sizes > 1]):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        for lag in range(1, size):
            yield rows[:, :-lag].ravel(), rows[:, lag:].ravel()


def order(a: Floats, b: Floats) -> Floats:
    """1 where a > b, -1 where a < b, 0 where they are tied or one is NaN; a difference could overflow."""
    found: Floats = (a > b).astype(np.float64) - (a < b)
    return found
