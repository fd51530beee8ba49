"""A comparison of two sweeps for the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.comparison import Comparison, Difference
from workers import layout


def render_comparison(result: Comparison) -> RenderableType:
    """The answer, a table of the differences with their intervals, and the notes, for rich."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    table.add_column("measure", overflow="fold")
    for heading in ("pairs (cells)", result.a, result.b, "difference"):
        table.add_column(heading, justify="right")
    for each in result.differences:
        name = each.measure if each.checkpoint == layout.LAST else f"{each.measure} ({each.checkpoint})"
        means = ("-" if mean is None else f"{mean:.4g}" for mean in (each.mean_a, each.mean_b))
        table.add_row(*map(Text, (name, f"{each.pairs} ({each.cells})", *means, _shown(each))))
    how = f"Difference: {result.b} minus {result.a}, mean over pairs; brackets: {100 * result.level:.3g} % bootstrap "
    how += f"interval, {result.resamples} resamples of whole cells."
    lines: list[str] = [
        *([how] if result.differences else []),
        *result.notes,
        *(f"unpaired: {line}" for line in result.unpaired),
    ]
    parts: list[RenderableType] = [table, Text()] if result.differences else []
    return Group(Text(result.answer, style="bold"), Text(), *parts, *map(Text, lines))


def _shown(each: Difference) -> str:
    if each.difference is None:
        return "-"
    interval = "" if each.low is None or each.high is None else f" [{each.low:.3g}, {each.high:.3g}]"
    return f"{each.difference:.3g}{interval}"
