"""A correlation result for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.correlation import Coefficient, CorrelationResult, LeftOut, count


def render(result: CorrelationResult) -> RenderableType:
    """The answer, a table of the coefficients with their intervals, a table of seed noise, and the notes, for rich."""
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "collapse_padding": True}
    coefficients = Table(**style)
    # Target and measure share a column, so that the table fits a terminal of 80 columns.
    coefficients.add_column("target\n  measure", overflow="fold")
    coefficients.add_column("n\n(cells)", justify="right")
    for name in ("Pearson r", "Spearman rho", "Kendall tau-b"):
        coefficients.add_column(name, no_wrap=True)
    for pair in result.pairs:
        values = [_shown(item) for item in (pair.pearson, pair.spearman, pair.kendall)]
        texts = [f"{pair.target}\n  {pair.measure}", f"{pair.networks}\n({pair.cells})", *values]
        coefficients.add_row(*[Text(text) for text in texts])

    spreads = Table(**style)
    spreads.add_column("seed noise", overflow="fold")
    for name in ("n (cells)", "sd within cells", "sd between cells"):
        spreads.add_column(name, justify="right")
    for spread in result.spreads:
        sds = ("-" if sd is None else f"{sd:.3g}" for sd in (spread.within_cell_sd, spread.between_cell_sd))
        spreads.add_row(*[Text(text) for text in (spread.column, f"{spread.networks} ({spread.cells})", *sds)])

    how = f"Brackets: {100 * result.level:.3g} % bootstrap interval, {result.resamples} resamples of whole cells."
    return Group(
        *(Text(result.answer, style="bold"), Text(), coefficients, Text(), spreads, Text()),
        *[Text(line) for line in (how, *result.notes, *_left_out_lines(result.left_out))],
    )


def _left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """One line per column and reason, with every trial."""
    groups: dict[tuple[str | None, str], list[str]] = {}
    for item in left_out:
        groups.setdefault((item.column, item.reason), []).append(f"{item.trial_id} ({item.label})")
    return [
        f"Left out{f' of {column}' if column else ''}, {reason}, {count(len(who), 'network')}: {', '.join(who)}."
        for (column, reason), who in groups.items()
    ]


def _shown(item: Coefficient) -> str:
    if item.value is None:
        return "-"
    interval = "" if item.low is None or item.high is None else f"\n[{item.low:.2f}, {item.high:.2f}]"
    return f"{item.value:.2f}{interval}"
