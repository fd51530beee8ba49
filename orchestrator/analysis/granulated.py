"""The granulated coefficient Psi: does the measure go with the target when one thing alone is varied?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.axes import Axis, order, others_equal, pairs_within
from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.analysis.results import AxisTau, Granulated


@dataclass(frozen=True)
class Groups:
    """Rows that differ along one axis alone, and every pair of them; made once for all measures and targets."""

    axis: Axis
    group: Ints
    """Shape (n,), each row's group."""
    pairs: tuple[tuple[Ints, Ints], ...]
    """Blocks of places (i, j) of one group with different values of the axis."""


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
                pairs.append((i[apart], j[apart]))
        found.append(Groups(axis, group, tuple(pairs)))
    return tuple(found)


def granulated(x: Floats, y: Floats, along: Sequence[Groups]) -> Granulated:
    """Psi, the mean over axes of psi_i, the mean over all settings of the other axes of Kendall's tau-b along axis i.

    A high tau over all networks can come from one axis, such as the method, alone; Psi asks each axis on its own, with
    everything else held, and counts all axes alike. Axes are the method, the regularizer and every varied setting.
    The seed, and which network of a trial it is, are held and are no axes: nothing was varied on purpose along them.
    A group in which measure or target is constant has no tau; such groups are skipped and counted. Psi has no
    interval: its groups share cells and are few, so that it describes the grid that was run and no other.

    Args:
        x: Shape (n,), the measure; NaN where there is none.
        y: Shape (n,), the target.
        along: As `groups_along` gives them, for the same rows.

    Source: Jiang et al. 2019 (arXiv 1912.02178), where tau is tau-a: the same without ties.
    """
    used = np.isfinite(x) & np.isfinite(y)
    axes = tuple(_along(x, y, used, each) for each in along)
    values = [axis.psi for axis in axes if axis.psi is not None]
    if not axes:
        return Granulated(None, reason="nothing but the seed is varied")
    if not values:
        return Granulated(None, axes, "no two networks differ along one axis alone, with different values of both")
    return Granulated(float(np.mean(values)), axes)


def _along(x: Floats, y: Floats, used: "np.ndarray[tuple[int], np.dtype[np.bool_]]", along: Groups) -> AxisTau:
    """Tau-b in every group, from sums over its pairs."""
    number = int(along.group.max(initial=-1)) + 1
    concordance, untied_x, untied_y, compared = np.zeros((4, number))
    for i, j in along.pairs:
        both = used[i] & used[j]
        i, j = i[both], j[both]
        group = along.group[i]
        sign_x, sign_y = order(x[i], x[j]), order(y[i], y[j])
        for total, values in (
            (concordance, sign_x * sign_y),
            (untied_x, np.abs(sign_x)),
            (untied_y, np.abs(sign_y)),
            (compared, np.ones(len(i))),
        ):
            total += np.bincount(group, values, number)
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
