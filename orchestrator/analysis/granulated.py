"""The granulated coefficient Psi: does the measure go with the target when one thing alone is varied?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.axes import Axis, order, others_equal, pairs_within
from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.analysis.results import AxisTau, Granulated


@dataclass(frozen=True)
class Groups:
    """Rows that differ along one axis alone, and every pair of them; made once for all measures and targets."""

    axis: Axis
    group: Ints
    """Shape (n,), each row's group."""
    pairs: tuple[tuple[Ints, Ints, Ints], ...]
    """Blocks of places (i, j) of one group with different values of the axis, and that group."""


@dataclass(frozen=True)
class Signs:
    """How a variable orders all pairs; made once for each variable."""

    known: NDArray[np.bool_]
    """Shape (n,), where it has a value."""
    signs: tuple[tuple[NDArray[np.int8], ...], ...]
    """For each axis and block those of x_i - x_j; 0 for a tie, and where one is not known."""

    @classmethod
    def of(cls, values: Floats, along: Sequence[Groups]) -> "Signs":
        """Of the variable with these values, shape (n,); NaN where there is none."""
        signs = tuple(tuple(order(values[i], values[j]).astype(np.int8) for i, j, _ in each.pairs) for each in along)
        return cls(np.isfinite(values), signs)


def groups_along(axes: Sequence[Axis], held: Sequence[Ints], n: int) -> tuple[Groups, ...]:
    """For each axis its groups.

    Args:
        axes: As `axes.varied_axes` gives them.
        held: Shape (n,) each: what is the same within a group, but no axis, such as the seed.
        n: The number of rows.
    """
    found = []
    for axis in axes:
        group = others_equal(axes, axis, held, n)
        pairs = []
        for i, j in pairs_within(group):
            apart = axis.values[i] != axis.values[j]
            if apart.any():
                pairs.append((i[apart], j[apart], group[i[apart]]))
        found.append(Groups(axis, group, tuple(pairs)))
    return tuple(found)


def granulated(x: Floats | Signs, y: Floats | Signs, along: Sequence[Groups]) -> Granulated:
    """Psi, the mean over axes of psi_i, the mean over all settings of the other axes of Kendall's tau-b along axis i.

    A high tau over all networks can come from one axis, such as the method, alone; Psi asks each axis on its own, with
    everything else held, and counts all axes alike. Axes are the method, the regularizer and every varied setting.
    The seed, and which network of a trial it is, are held and are no axes: nothing was varied on purpose along them.
    A group in which measure or target is constant has no tau; such groups are skipped and counted. Psi has no
    interval: its groups share cells and are few, so that it describes the grid that was run and no other.

    Args:
        x: The measure: shape (n,), NaN where there is none; or its signs.
        y: The target, likewise.
        along: As `groups_along` gives them, for the same rows.

    Source: Jiang et al. 2019 (arXiv 1912.02178), where tau is tau-a: the same without ties.
    """
    x, y = (each if isinstance(each, Signs) else Signs.of(each, along) for each in (x, y))
    used = x.known & y.known
    axes = tuple(_along(*each, used) for each in zip(along, x.signs, y.signs, strict=True))
    values = [axis.psi for axis in axes if axis.psi is not None]
    if not axes:
        return Granulated(None, reason="nothing but the seed is varied")
    if not values:
        return Granulated(None, axes, "no two networks differ along one axis alone, with different values of both")
    return Granulated(float(np.mean(values)), axes)


def _along(
    along: Groups, signs_x: Sequence[NDArray[np.int8]], signs_y: Sequence[NDArray[np.int8]], used: NDArray[np.bool_]
) -> AxisTau:
    """Tau-b in every group, from sums over its pairs."""
    number = int(along.group.max(initial=-1)) + 1
    concordance, untied_x, untied_y, compared = np.zeros((4, number))
    for (i, j, group), sign_x, sign_y in zip(along.pairs, signs_x, signs_y, strict=True):
        if not used.all():
            both = used[i] & used[j]
            group, sign_x, sign_y = group[both], sign_x[both], sign_y[both]
        concordance += np.bincount(group, sign_x * sign_y, number)
        untied_x += np.bincount(group, sign_x != 0, number)
        untied_y += np.bincount(group, sign_y != 0, number)
        compared += np.bincount(group, minlength=number)
    groups_used = np.bincount(along.group[used], minlength=number) > 0
    has_value = (untied_x > 0) & (untied_y > 0)
    taus = concordance[has_value] / np.sqrt(untied_x[has_value] * untied_y[has_value])
    return AxisTau(
        axis=along.axis.name,
        psi=float(taus.mean()) if len(taus) else None,
        groups=len(taus),
        constant=int(((compared > 0) & ~has_value).sum()),
        single=int((groups_used & (compared == 0)).sum()),
    )
