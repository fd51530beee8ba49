"""What a correlation found, as plain data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.analysis.rows import LeftOut, count


@dataclass(frozen=True)
class Coefficient:
    """One coefficient in [-1, 1] with its bootstrap interval; `reason` says why a part is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    skipped: int = 0
    """Resamples without a value, because a variable was constant in them."""
    reason: str | None = None


@dataclass(frozen=True)
class PValue:
    """Of the hypothesis that measure and target have nothing to do with one another, in (0, 1]."""

    value: float | None
    holm: float | None = None
    """Corrected for all pairs that were tested together."""
    smallest: float | None = None
    """The smallest value that so many cells can give."""
    reason: str | None = None


@dataclass(frozen=True)
class AxisTau:
    """Kendall tau-b along one axis of the grid, all others held."""

    axis: str
    psi: float | None
    """Mean over the groups that have a value, in [-1, 1]."""
    groups: int
    constant: int
    """Groups that were skipped, because measure or target is the same in all their networks."""
    single: int
    """Groups without two networks that differ along the axis."""


@dataclass(frozen=True)
class Granulated:
    """The granulated coefficient Psi, in [-1, 1], and its axes."""

    psi: float | None
    axes: tuple[AxisTau, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class SignError:
    """How often the measure orders two settings otherwise than the target does: 0 never, 0.5 a coin, 1 always."""

    maximum: float | None
    """Over the environments that were kept."""
    percentile_90: float | None = None
    environments: int = 0
    """Kept: pairs of settings with enough effective pairs of networks."""
    dropped: int = 0
    noise: str = ""
    """Where the weights come from: `hoeffding`, `normal` or `none`."""
    worst: str | None = None
    """The environment of the maximum."""
    reason: str | None = None


@dataclass(frozen=True)
class WithoutMethod:
    """The coefficients when one method is left out; None where there is none."""

    method: str
    networks: int
    pearson: float | None
    spearman: float | None
    kendall: float | None


@dataclass(frozen=True)
class Sensitivity:
    """How far Kendall's tau depends on single methods."""

    low: float | None
    high: float | None = None
    driver: str | None = None
    """The method whose absence changes tau most."""
    without: tuple[WithoutMethod, ...] = ()
    reason: str | None = None


NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class Pair:
    """One measure against one target."""

    measure: str
    target: str
    networks: int
    cells: int
    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    partial_pearson: Coefficient = field(default=Coefficient(None, reason=NOT_ASKED))
    """Given the robust loss on training images."""
    partial_spearman: Coefficient = field(default=Coefficient(None, reason=NOT_ASKED))
    p: PValue = field(default=PValue(None, reason=NOT_ASKED))
    granulated: Granulated = field(default=Granulated(None, reason=NOT_ASKED))
    sign_error: SignError = field(default=SignError(None, reason=NOT_ASKED))
    sensitivity: Sensitivity = field(default=Sensitivity(None, reason=NOT_ASKED))

    def sentence(self) -> str:
        """What the pair says about the question, in one sentence that claims no more than the interval does."""
        tau = self.kendall
        if tau.value is None:
            return f"No answer on {self.target} and {self.measure}: {tau.reason}."
        over = f"Over {count(self.networks, 'network')} in {count(self.cells, 'cell')}"
        if tau.low is None or tau.high is None:
            return (
                f"{over}, Kendall tau of {self.target} and {self.measure} is {tau.value:.2f}, "
                f"without an interval: {tau.reason}."
            )
        numbers = f"Kendall tau {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"
        if tau.low <= 0 <= tau.high:
            return (
                f"{over}, it stays open whether {self.target} goes with {self.measure}: "
                f"{numbers}, and the interval contains 0."
            )
        verb = "goes with" if tau.low > 0 else "goes against"
        return f"{over}, {self.target} {verb} {self.measure}: {numbers}."


@dataclass(frozen=True)
class Spread:
    """Seed noise of one column beside the differences between cells, in the column's unit."""

    column: str
    networks: int
    cells: int
    within_cell_sd: float | None
    """Pooled over cells with at least two seeds, each with its degrees of freedom."""
    between_cell_sd: float | None
    """Standard deviation of the cell means; seed noise, divided by the seeds in a cell, is part of it."""
    reason: str | None = None


@dataclass(frozen=True)
class CorrelationResult:
    """Every pair, target by target, with what was left out and what to keep in mind."""

    networks: int
    cells: int
    resamples: int
    level: float
    seed: int
    pairs: tuple[Pair, ...]
    spreads: tuple[Spread, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The sentence that answers the question, for the first pair."""
        return self.pairs[0].sentence()

    @property
    def measures(self) -> tuple[str, ...]:
        """In order, once each."""
        return tuple(dict.fromkeys(pair.measure for pair in self.pairs))

    @property
    def targets(self) -> tuple[str, ...]:
        """In order, once each."""
        return tuple(dict.fromkeys(pair.target for pair in self.pairs))

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None, without NaN: ready for `json.dumps(..., allow_nan=False)`."""
        return {"answer": self.answer} | asdict(self)
