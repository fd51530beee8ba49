"""A scatter figure for a paper: vector graphics, as wide as a column, legends below.

matplotlib is imported inside the functions, and used without pyplot: no global state, no display.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from orchestrator.analysis.columns import axis_label
from orchestrator.analysis.figures import legend_handles, numbered, plotted, points
from orchestrator.analysis.rows import usable_rows
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

WIDTH = 3.25
"""Inches: a column of a two-column page."""
AXES_HEIGHT = 2.0
LEFT, RIGHT, TOP, BELOW = 0.52, 0.08, 0.08, 0.4
"""Inches around the axes, for labels and numbers."""
GAP = 0.06
LETTERS = 7.0
"""Points: what is read in a paper without effort, and no larger than its captions."""
LINE = 0.6
SCALE = 0.7
SUFFIXES = (".pdf", ".svg")


def column_figure(table: pd.DataFrame, measure: str, target: str, path: Path) -> None:
    """Draws `target` over `measure` and saves the figure, `WIDTH` wide, with its fonts inside.

    Args:
        table: As `correlation.correlate` takes it.
        measure: Column on the horizontal axis; with a column `<measure>_se`, error bars of one standard error.
        target: Column on the vertical axis; likewise.
        path: A name that ends in .pdf or .svg. Missing folders are made.

    Raises:
        UserError: A column is not there or holds no numbers, the file is no vector graphic or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--figure {path}: a vector figure ends in {' or '.join(SUFFIXES)}")
    import matplotlib as mpl

    # TrueType fonts, which publishers ask for; fixed ids and no date: the same table gives the same file.
    figure = draw_column(table, measure, target)
    date = "CreationDate" if path.suffix.lower() == ".pdf" else "Date"
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "flatsweep"}):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={date: None})
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def draw_column(table: pd.DataFrame, measure: str, target: str) -> "Figure":
    """The figure of `column_figure`, of the height that its legends need."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = plotted(table, measure, target)
    labels, _ = usable_rows(table, [])
    methods, regularizers = numbered(labels["method"]), numbered(labels["regularizer"])
    figure = Figure(figsize=(WIDTH, TOP + AXES_HEIGHT + BELOW), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    points(axes, rows, measure, target, methods, regularizers, scale=SCALE)
    axes.set_xlabel(axis_label(measure), labelpad=2, fontsize=LETTERS)
    axes.set_ylabel(axis_label(target), labelpad=2, fontsize=LETTERS)
    axes.tick_params(width=LINE, length=2.5, labelsize=LETTERS)
    axes.grid(color="0.92", linewidth=LINE)
    axes.spines[:].set_linewidth(LINE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    with_best = bool((rows["checkpoint"] == "best").any())
    by_title = legend_handles(methods, regularizers, with_best, scale=SCALE)
    # a legend of one entry says nothing
    legends = [_legend(figure, title, handles) for title, handles in by_title.items() if len(handles) > 1]
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    heights = [legend.get_window_extent(renderer).height / figure.dpi + GAP for legend in legends]
    height = TOP + AXES_HEIGHT + BELOW + sum(heights)
    figure.set_size_inches(WIDTH, height)
    axes.set_position((LEFT / WIDTH, (BELOW + sum(heights)) / height, 1 - (LEFT + RIGHT) / WIDTH, AXES_HEIGHT / height))
    top = sum(heights)
    for legend, own in zip(legends, heights, strict=True):
        legend.set_bbox_to_anchor((0.03, top / height), transform=figure.transFigure)
        top -= own
    return figure


def _legend(figure: "Figure", title: str, handles: list["Line2D"]) -> "Legend":
    """A legend without a frame, in as many columns as fit."""
    names = [str(item.get_label()) for item in handles]
    legend = figure.legend(
        handles,
        names,
        title=title,
        loc="upper left",
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        alignment="left",
        fontsize=LETTERS - 1,
        title_fontproperties={"size": LETTERS - 1, "weight": "bold"},
        handletextpad=0.1,
        columnspacing=0.8,
        labelspacing=0.3,
        ncols=min(3 if max(map(len, names)) < 16 else 2, len(names)),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend
