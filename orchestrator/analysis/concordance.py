"""Concordant minus discordant pairs, and ties, of many pairs of variables, summed by groups of networks.

The sign of x_i - x_j is a bit: whether j is among those below i. In sorted order each network's row of bits is the row
before it with one bit more, and the signs of two variables are compared 64 at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

BYTES_AT_ONCE = 250_000_000
"""Of the bits of all variables that are held at once."""
WORDS_AT_ONCE = 30_000
"""Length of temporary arrays, so that they stay in a core's cache."""
MAX_ROWS = 1000
"""So many counts, at most 64 each, have a sum that 16 bits hold."""
WORD = 64


@dataclass(frozen=True)
class Forms:
    """Sums over the pairs of networks (i, j) of two groups, in either order and each with itself; whole numbers."""

    concordance: Floats
    """Shape (l, t, k, k): of sign(x_i - x_j) sign(y_i - y_j)."""
    tied: Floats
    """Shape (l + t, k, k): of 1 where a variable is the same in i and j."""
    sizes: Ints
    """Shape (k,): networks of each group."""

    def tau_b(self, counts: Floats) -> Floats:
        """Kendall's tau-b where each group is there so often; NaN where a variable is constant.

        A network's copies are tied with one another, as in a sample with real copies.

        Args:
            counts: Shape (b, k), whole numbers of at least 0.

        Returns:
            Shape (l, t, b), in [-1, 1].
        """
        l, t = self.concordance.shape[:2]  # noqa: E741
        total = counts @ self.sizes
        # BLAS is twice as fast in single precision, which holds whole numbers below 2**24 exactly
        largest = float((total * counts.max(axis=1)).max(initial=0)) * float(self.sizes.max())
        counts = counts.astype(np.float32 if largest < 2**24 else np.float64)
        untied = [np.sqrt(total**2 - _quadratic(form, counts)) for form in self.tied]
        tau = np.full((l, t, len(counts)), np.nan)
        for i in range(l):
            for j in range(t):
                scale = untied[i] * untied[l + j]
                np.divide(_quadratic(self.concordance[i, j], counts), scale, out=tau[i, j], where=scale > 0)
        clipped: Floats = np.clip(tau, -1, 1)
        return clipped


def _quadratic(form: Floats, counts: NDArray[np.floating[Any]]) -> Floats:
    """c Q c for every row c, shape (b,)."""
    found: Floats = ((counts @ form.astype(counts.dtype)) * counts).sum(axis=1, dtype=np.float64)
    return found


def forms_of(values: Floats, l: int, groups: Ints) -> Forms:  # noqa: E741
    """Sums over pairs of networks, by the groups that the two are in.

    Takes about n^2 / 128 steps for each pair of variables: the sums for groups (g, h) are those for (h, g).

    Args:
        values: Shape (l + t, n), finite: left variables, then right ones.
        l: How many are left.
        groups: Shape (n,), each network's group in 0..k-1, none of which is empty.
    """
    c, n = values.shape
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    k, starts = len(sizes), np.cumsum(sizes) - sizes
    variables = [_Sorted.of(each[order]) for each in values]
    concordance, tied = np.zeros((l, c - l, k, k)), np.zeros((c, k, k))
    pairs = np.outer(sizes, sizes)
    for part in _parts(sizes, 2 * c * n):
        layout = _Layout.of(starts, sizes, part)
        bits = [variable.bits(layout) for variable in variables]
        own = np.zeros((k, k))
        own[np.arange(k), np.arange(k)] = sizes
        for index, each in enumerate(bits):
            tied[index, :, part] = own[:, part] if each.equal is None else layout.counts(each.equal)
        for i, left in enumerate(bits[:l]):
            for j, right in enumerate(bits[l:]):
                both = [form for form in (left.equal, right.equal) if form is not None]
                wrong = layout.counts(left.below, right.below, both)
                if len(both) == 2:
                    same = layout.counts(both[0] | both[1])
                else:
                    same = tied[i if left.equal is not None else l + j, :, part]
                concordance[i, j, :, part] = pairs[:, part] - same - 2 * wrong
    return Forms(_mirrored(concordance), _mirrored(tied), sizes)


def _mirrored(forms: Floats) -> Floats:
    """With the values above the diagonal below it too."""
    mirrored: Floats = np.triu(forms) + np.triu(forms, 1).swapaxes(-1, -2)
    return mirrored


def _parts(sizes: Ints, rows: int) -> Iterator[slice]:
    """Consecutive groups, as many at a time as there is room for `rows` rows of their bits."""
    words = np.cumsum(-(-sizes // WORD))
    first = 0
    while first < len(sizes):
        room = BYTES_AT_ONCE // (8 * rows) + (words[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(words, room, side="right")))
        yield slice(first, last)
        first = last


@dataclass(frozen=True)
class _Layout:
    """Where the networks of some groups are among the bits of a row: every group begins a word."""

    starts: Ints
    """Shape (k,): the first row of every group, of rows that are sorted by group."""
    part: slice
    """The groups with bits."""
    networks: slice
    """Those with a bit."""
    word: Ints
    """Shape (networks,)."""
    bit: Words
    begins: Ints
    """The first word of each group."""
    width: int
    """Words in a row."""

    @classmethod
    def of(cls, starts: Ints, sizes: Ints, part: slice) -> "_Layout":
        own = sizes[part]
        words = -(-own // WORD)
        begins = np.cumsum(words) - words
        place = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
        first = int(starts[part.start])
        return cls(
            starts,
            part,
            slice(first, first + len(place)),
            np.repeat(begins, own) + place // WORD,
            np.left_shift(np.uint64(1), (place % WORD).astype(np.uint64)),
            begins,
            int(words.sum()),
        )

    def counts(self, one: Words, other: Words | None = None, without: list[Words] = []) -> Floats:  # noqa: B006
        """Bits that are set in `one`, or differ in both, and are not in `without`: by group of rows and of bits.

        Only where the group of rows does not come after that of bits; the rest is arbitrary.
        """
        by_word = np.zeros((len(self.starts), self.width))
        top = 0
        while top < self.networks.stop:
            low = int(np.searchsorted(self.starts, top, side="right")) - 1
            left = int(self.begins[max(0, low - self.part.start)])
            step = max(1, min(MAX_ROWS, WORDS_AT_ONCE // (self.width - left)))
            rows = slice(top, min(self.networks.stop, top + step))
            found = one[rows, left:]
            if other is not None:
                found = np.bitwise_xor(found, other[rows, left:])
                for each in without:
                    np.bitwise_and(found, ~each[rows, left:], out=found)
            high = int(np.searchsorted(self.starts, rows.stop - 1, side="right")) - 1
            edges = np.maximum(self.starts[low : high + 1] - top, 0)
            counts = np.add.reduceat(np.bitwise_count(found), edges, axis=0, dtype=np.uint16)
            by_word[low : high + 1, left:] += counts
            top = rows.stop
        by_group: Floats = np.add.reduceat(by_word, self.begins, axis=1)
        return by_group


@dataclass(frozen=True)
class _Bits:
    """Of each network, one row: which others are below it, and which are tied with it, itself among these."""

    below: Words
    """Shape (n, width)."""
    equal: Words | None
    """None where nobody is tied with another."""


@dataclass(frozen=True)
class _Sorted:
    """One variable."""

    place: Ints
    """Shape (n,), of each network among the sorted values."""
    first: Ints
    """Shape (n,), where the block of those tied with it begins."""
    last: Ints
    """Where it ends."""

    @classmethod
    def of(cls, values: Floats) -> "_Sorted":
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
        block = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        place, first, last = np.empty((3, len(values)), dtype=np.int64)
        place[order], first[order], last[order] = np.arange(len(values)), edges[block], edges[block + 1]
        return cls(place, first, last)

    def bits(self, layout: _Layout) -> _Bits:
        smallest = np.zeros((len(self.place) + 1, layout.width), dtype=np.uint64)
        smallest[self.place[layout.networks] + 1, layout.word] = layout.bit
        np.bitwise_or.accumulate(smallest, axis=0, out=smallest)
        below = smallest[self.first]
        has_ties = bool((self.last - self.first > 1).any())
        return _Bits(below, smallest[self.last] ^ below if has_ties else None)
