"""The robust sign-error: in how many single comparisons does the measure point the wrong way, at worst?"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from orchestrator.analysis.axes import Axis, others_equal
from orchestrator.analysis.bootstrap import Floats, Ints
from orchestrator.analysis.results import SignError
from orchestrator.analysis.rows import count

MIN_EFFECTIVE = 12.0
"""Effective pairs of networks that an environment needs (Dziugaite20)."""
MAX_PAIRS = 2_000_000
"""More pairs of networks than this would take minutes and gigabytes."""
TRUSTED = 0.5
"""A pair whose order is real with a smaller probability has no weight."""
ROUNDING = 1e-9
SQRT2 = math.sqrt(2)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Environments:
    """Pairs of settings that differ along one axis, and every pair of their networks."""

    name: Callable[[int], str]
    """Of an environment: `at -> trades | none`."""
    number: int
    environment: Ints
    """Shape (p,), the number of each pair's environment."""
    i: Ints
    """Shape (p,), places of the rows of the first setting."""
    j: Ints
    too_small: int
    """Environments whose networks are too few for `min_effective` whatever their weights."""
    largest_too_small: int = 0
    """The most pairs of networks that one of those has."""
    reason: str | None = None


@dataclass(frozen=True)
class Comparisons:
    """The pairs of networks whose targets differ beyond the noise, and what each counts; made once for all measures."""

    noise: Literal["hoeffding", "normal", "none"]
    """Where the weights come from."""
    i: Ints
    """Shape (q,), sorted by environment."""
    j: Ints
    """Shape (q,): each has the larger target, or the same."""
    weights: Floats
    """Shape (q,), in (0, 0.5] with noise, else 1."""
    tied: Mask | None
    """Shape (q,), where both targets are the same; None where that is nowhere."""
    begins: Ints
    """Where the pairs of each environment that has some begin."""
    present: Ints
    """The numbers of these environments."""
    total: Floats
    """Of their weights, shape (present,)."""
    squares: Floats
    """Likewise, of their squares."""


def environments(
    rows: pd.DataFrame, axes: Sequence[Axis], held: Sequence[Ints], min_effective: float = MIN_EFFECTIVE
) -> Environments:
    """All environments of a table, as in the released code of Dziugaite20: seeds meet all seeds.

    Args:
        rows: As `rows.usable_rows` gives them.
        axes: As `axes.varied_axes` gives them.
        held: Shape (n,) each: what is the same in both settings but no axis, and not the seed.
        min_effective: As `robust_sign_error` takes it; an effective number is never above the number of pairs.
    """
    total = too_small = largest = 0
    found: list[_Blocks] = []
    for axis in axes:
        settings = _Settings.of(others_equal(axes, axis, held, len(rows)), axis.values)
        for low, high in settings.groups():
            sizes = settings.sizes[low:high]
            pairs, networks = _numbers_of_pairs(sizes)
            enough = networks >= min_effective
            too_small += int(pairs[~enough].sum())
            largest = max(largest, int(networks[~enough & (pairs > 0)].max(initial=0)))
            total += int((pairs * networks)[enough].sum())
            if total > MAX_PAIRS:
                reason = f"more than {MAX_PAIRS:,} pairs of networks: choose some rows, or a larger min_effective"
                nothing = np.zeros(0, dtype=np.int64)
                return Environments(lambda _: "", 0, nothing, nothing, nothing, too_small, largest, reason)
            if (pairs[enough] > 0).any():
                # division, as a product of sizes would need eight times the room
                one, other = np.nonzero(np.triu(sizes[:, None] >= min_effective / sizes, 1))
                found.append(_Blocks(axis, settings, low + one, low + other))
    number, i, j = _all_with_all(found)
    counts = [len(blocks.one) for blocks in found]
    ends = np.cumsum([0, *counts])

    def name(index: int) -> str:
        block = int(np.searchsorted(ends, index, side="right")) - 1
        axis, *first = found[block].first(index - int(ends[block]))
        return _name(rows, axes, axis, *first)

    return Environments(name, sum(counts), number, i, j, too_small, largest)


@dataclass(frozen=True)
class _Settings:
    """Rows that share group and value, all of them one after another."""

    order: Ints
    """Shape (n,): the places of the rows, sorted by group, then by value."""
    starts: Ints
    """Where the rows of each setting begin in `order`."""
    sizes: Ints
    group: Ints
    """Of each setting."""

    @classmethod
    def of(cls, group: Ints, value: Ints) -> "_Settings":
        order = np.lexsort((value, group))
        by_group, by_value = group[order], value[order]
        changes = (np.diff(by_group) != 0) | (np.diff(by_value) != 0)
        starts = np.flatnonzero(np.concatenate([[len(order) > 0], changes]))
        return cls(order, starts, np.diff(starts, append=len(order)), by_group[starts])

    def groups(self) -> Iterator[tuple[int, int]]:
        """First setting, and the one behind the last, of every group with several."""
        edges = np.flatnonzero(np.diff(self.group, prepend=-1, append=-1))
        several = np.diff(edges) > 1
        yield from zip(edges[:-1][several].tolist(), edges[1:][several].tolist(), strict=True)


def _numbers_of_pairs(sizes: Ints) -> tuple[Ints, Ints]:
    """For every two different sizes of settings: how many pairs of settings have them, and how many pairs of networks
    each of these has; shape (sizes, sizes), each two sizes once."""
    different, often = np.unique(sizes, return_counts=True)
    pairs = np.triu(np.outer(often, often), 1) + np.diag(often * (often - 1) // 2)
    return pairs, np.outer(different, different)


@dataclass(frozen=True)
class _Blocks:
    """Environments along one axis in one group: pairs of settings."""

    axis: Axis
    settings: _Settings
    one: Ints
    """Shape (pairs,), numbers of settings."""
    other: Ints

    def first(self, index: int) -> tuple[Axis, int, int]:
        """The axis, and the first row of each setting of a pair."""
        starts = self.settings.starts[[self.one[index], self.other[index]]]
        one, other = self.settings.order[starts].tolist()
        return self.axis, one, other

    def rows(self) -> tuple[Ints, Ints, Ints]:
        """The pair's number, and the places of both rows, for every network of one setting with all of the other."""
        order, starts, sizes = self.settings.order, self.settings.starts, self.settings.sizes
        width, own = sizes[self.other], sizes[self.one] * sizes[self.other]
        number = np.repeat(np.arange(len(own)), own)
        place = np.arange(len(number)) - np.repeat(np.cumsum(own) - own, own)
        left, right = np.divmod(place, width[number])
        return number, order[starts[self.one][number] + left], order[starts[self.other][number] + right]


def _all_with_all(found: Sequence[_Blocks]) -> tuple[Ints, Ints, Ints]:
    """The number of the environment, and both places, of every pair of networks of its two settings."""
    nothing = np.zeros(0, dtype=np.int64)
    parts = [blocks.rows() for blocks in found]
    before = np.cumsum([0, *(len(blocks.one) for blocks in found)])
    numbers = [number + first for (number, _, _), first in zip(parts, before, strict=False)]
    i, j = (np.concatenate([nothing, *(part[side] for part in parts)]) for side in (1, 2))
    return np.concatenate([nothing, *numbers]), i, j


def comparisons(y: Floats, found: Environments, examples: float | None, errors: Floats | None) -> Comparisons:
    """Weighs pairs by max(0, h - 0.5), h the probability that two targets lie in the order in which they were measured.

    Each of the two is as far from its expectation as half of their difference, |dg|/2, with a probability that is
    bounded: for a fraction of n examples by Hoeffding, 2 exp(-2n (|dg|/2)^2), so that
    h = max(0, 1 - 2 exp(-2n (|dg|/2)^2))^2 (Dziugaite20). A loss has no upper end and so no such bound: there the
    probability is the normal distribution's, with the recorded standard errors [ours]. Without either every pair
    counts 1, whatever its noise.

    Args:
        y: Shape (n,), the target; NaN where there is none.
        found: The pairs.
        examples: Behind each value of a target in [0, 1].
        errors: Shape (n,), standard errors; NaN where there is none.
    """
    half = np.abs(y[found.i] / 2 - y[found.j] / 2)
    noise: Literal["hoeffding", "normal", "none"] = "none"
    weights = np.ones(len(half))
    if examples:
        noise = "hoeffding"
        weights = np.maximum(0, 1 - 2 * np.exp(-2 * examples * half**2)) ** 2 - TRUSTED
    elif errors is not None and (errors[np.isfinite(y)] > 0).all():
        noise = "normal"
        weights = special.erf(half / errors[found.i] / SQRT2) * special.erf(half / errors[found.j] / SQRT2) - TRUSTED
    counts = np.isfinite(half) & (weights > 0)
    weights, one, other = weights[counts], found.i[counts], found.j[counts]
    falls = y[one] > y[other]
    i, j = np.where(falls, other, one), np.where(falls, one, other)
    tied = y[i] == y[j]
    present, begins = np.unique(found.environment[counts], return_index=True)
    total, squares = _sums(weights, begins), _sums(weights**2, begins)
    return Comparisons(noise, i, j, weights, tied if tied.any() else None, begins, present, total, squares)


def _sums(values: Floats, begins: Ints) -> Floats:
    """Of values that are sorted by environment, for each environment."""
    sums: Floats = np.add.reduceat(values, begins) if len(begins) else np.zeros(0)
    return sums


def noise_columns(target: str) -> list[str]:
    """The columns that say how noisy a target is, where they are recorded; `examples_behind` reads them."""
    sets = [target]
    if target.endswith("_error_gap"):
        sets += [target.removesuffix("gap") + part for part in ("train", "test")]
    return [name for own in sets for name in (own, f"{own}_se")]


def examples_behind(rows: pd.DataFrame, target: str) -> float | None:
    """How many examples an error was counted on, from its standard error, sqrt(p (1 - p) / (n - 1)).

    The noise of a gap is that of both sets: Hoeffding's bound for a difference of means has 1 / (1/n + 1/m) in place
    of n.

    Returns:
        None where the target is no error, or its standard error is not recorded.
    """
    if target.endswith("_error_gap"):
        both = [examples_behind(rows, target.removesuffix("gap") + part) for part in ("train", "test")]
        return None if None in both else 1 / sum(1 / n for n in both if n)
    if not target.endswith(("_error_train", "_error_test")) or not {target, f"{target}_se"} <= set(rows):
        return None
    p, error = rows[target].to_numpy(), rows[f"{target}_se"].to_numpy()
    known = np.isfinite(p) & (p > 0) & (p < 1) & (error > 0)
    return float(np.median(p[known] * (1 - p[known]) / error[known] ** 2)) + 1 if known.any() else None


def robust_sign_error(
    x: Floats, found: Environments, compared: Comparisons, min_effective: float = MIN_EFFECTIVE
) -> SignError:
    """Maximum and 90th percentile over environments of the weighted mean of (1 - sign(dx) sign(dy)) / 2.

    An environment is a pair of settings that differ along one axis, each with all its seeds. A mean over all of them
    hides where a measure fails; the maximum shows it. Kept are environments with (sum w)^2 / sum w^2 of at least
    `min_effective`: with s seeds in each setting at most s^2, so that the default of 12 needs 4 seeds.

    Args:
        x: Shape (n,), the measure; NaN where there is none.
        found: As `environments` gives them.
        compared: As `comparisons` gives them, for the target.
        min_effective: Effective pairs that an environment needs, above 0.

    Source: Dziugaite et al. 2020 (arXiv 2010.11924).
    """
    if found.reason:
        return SignError(None, noise=compared.noise, reason=found.reason)
    total, squares, errors = _weighted(x, compared)
    some = total > 0
    effective, errors = (
        np.divide(top, bottom, out=np.zeros(len(total)), where=some)
        for top, bottom in ((total**2, squares), (errors, total))
    )
    kept = some & (effective >= min_effective * (1 - ROUNDING))
    dropped = found.too_small + found.number - int(kept.sum())
    if not kept.any():
        return SignError(None, dropped=dropped, noise=compared.noise, reason=_why_none(found, min_effective))
    worst = int(np.flatnonzero(kept)[np.argmax(errors[kept])])
    return SignError(
        maximum=float(errors[worst]),
        percentile_90=float(np.quantile(errors[kept], 0.9)),
        environments=int(kept.sum()),
        dropped=dropped,
        noise=compared.noise,
        worst=found.name(int(compared.present[worst])),
    )


def _weighted(x: Floats, compared: Comparisons) -> tuple[Floats, Floats, Floats]:
    """Sums over the pairs of each environment: of weights, of their squares, and of those that x orders wrongly.

    Orders are those of numbers of x's different values, which are short, and half for a tie.
    """
    known = np.isfinite(x)
    number = np.unique(np.where(known, x, 0), return_inverse=True)[1].astype(np.int32)
    one, other = number[compared.i], number[compared.j]
    wrong = (one > other) * compared.weights
    ties = one == other if compared.tied is None else (one == other) | compared.tied
    wrong[ties] = compared.weights[ties] / 2
    if known.all():
        return compared.total, compared.squares, _sums(wrong, compared.begins)
    w = compared.weights * (known[compared.i] & known[compared.j])
    sums = (_sums(values, compared.begins) for values in (w, w**2, np.where(w > 0, wrong, 0)))
    total, squares, errors = sums
    return total, squares, errors


def _why_none(found: Environments, min_effective: float) -> str:
    """Why no environment was kept."""
    if not found.number and not found.too_small:
        return "no two settings differ along one axis alone"
    if not found.number:
        return (
            f"two settings have at most {count(found.largest_too_small, 'pair')} of networks, "
            f"and {min_effective:g} effective ones are needed: run more seeds"
        )
    return f"no two settings have {min_effective:g} effective pairs: the target differs too little for its noise"


def _name(rows: pd.DataFrame, axes: Sequence[Axis], axis: Axis, first: int, second: int) -> str:
    """What changes from one row's setting to the other's, and what does not."""

    def said(one: Axis, row: int) -> str:
        label = one.labels[one.values[row]]
        return label if one.name in ("method", "regularizer") else f"{one.name}={label}"

    others = [said(other, first) for other in axes if other is not axis]
    checkpoint = str(rows["checkpoint"].iloc[first])
    changed = f"{said(axis, first)} -> {said(axis, second)}"
    return " | ".join([changed, *others, *([checkpoint] if checkpoint != "last" else [])])
