"""Scatter figures of a measure against a target over trials: PNG, SVG and the data beside them.

matplotlib is imported inside the functions, and used without pyplot: no global state, no display.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from orchestrator.analysis.columns import axis_label
from orchestrator.analysis.correlation import CELL, GROUP, point_estimates, usable_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

# Okabe and Ito (2008), without yellow, which is too faint for small marks on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*PX<>phd8H"
LEGEND_ROWS = 16
LEGEND_LETTERS = 34
AXES_INCHES = (4.6, 3.6)
GAP_INCHES = 0.15
MAX_SINGLE = 2000
"""So many networks can be told apart: more have no error bars, which would cover them, and are one bitmap between the
axes and the text of an SVG, which browsers would else show only after seconds."""
DPI = 150
"""Of PNGs, and of bitmaps in SVGs."""
CELL_LINES = "cells"
"""The id, in the figure and in the SVG, of the lines that join the seeds of a cell."""

CHECKPOINTS = ("last", "best")
"""Points of last networks are filled, those of best ones (early stopping) are hollow."""


def scatter(table: pd.DataFrame, measure: str, target: str, path_without_suffix: Path) -> list[Path]:
    """Draws `target` over `measure` and saves the figure as .png (150 dpi) and .svg, and the data plotted as .csv.

    Args:
        table: As `correlation.correlate` takes it.
        measure: Column on the horizontal axis; with a column `<measure>_se`, error bars of one standard error.
        target: Column on the vertical axis; likewise.
        path_without_suffix: Where to; a dot in the name is part of the name. Missing folders are made.

    Returns:
        The three paths, in the order above.

    Raises:
        UserError: A column is not there or holds no numbers.
        OSError: The folder cannot be written.
    """
    return save(draw(table, measure, target), plotted(table, measure, target), path_without_suffix)


def save(figure: "Figure", data: pd.DataFrame, path_without_suffix: Path) -> list[Path]:
    """Saves a figure as .png (150 dpi) and .svg and what it shows as .csv; returns the three paths.

    Raises:
        OSError: The folder cannot be written.
    """
    import matplotlib as mpl

    paths = [path_without_suffix.parent / (path_without_suffix.name + suffix) for suffix in (".png", ".svg", ".csv")]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    # Fixed ids and no date: the same data give the same files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flatsweep"}):
        figure.savefig(paths[0], dpi=DPI, bbox_inches="tight", pad_inches=0.08)
        figure.savefig(paths[1], dpi=DPI, bbox_inches="tight", pad_inches=0.08, metadata={"Date": None})
    data.to_csv(paths[2], index=False)
    return paths


def plotted(table: pd.DataFrame, measure: str, target: str) -> pd.DataFrame:
    """The rows and columns that `draw` shows: labels, measure, target and their standard errors where recorded.

    Raises:
        UserError: A column is not there or holds no numbers.
    """
    errors = [name for name in (f"{measure}_se", f"{target}_se") if name in table]
    rows, _ = usable_rows(table, list(dict.fromkeys([measure, target, *errors])))
    return rows[rows[measure].notna() & rows[target].notna()].reset_index(drop=True)


def draw(table: pd.DataFrame, measure: str, target: str) -> "Figure":
    """The figure of `scatter`: methods as colours, regularizers as markers, seeds of a cell joined by a thin line.

    Legends stand to the right of the axes, outside of the figure's nominal size: save with `bbox_inches="tight"`.

    Args:
        table: As `correlation.correlate` takes it; rows without both values are not drawn, and counted in the title.
        measure: Column on the horizontal axis.
        target: Column on the vertical axis.

    Raises:
        UserError: A column is not there or holds no numbers.
    """
    from matplotlib.figure import Figure

    rows = plotted(table, measure, target)
    # Labels of the whole table, so that a method keeps its colour from figure to figure.
    labels, _ = usable_rows(table, [])
    methods = numbered(labels["method"])
    regularizers = numbered(labels["regularizer"])

    figure = Figure(figsize=AXES_INCHES, dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    points(axes, rows, measure, target, methods, regularizers)
    axes.set_xlabel(axis_label(measure))
    axes.set_ylabel(axis_label(target))
    axes.set_title(_title(rows, labels, measure, target), fontsize=10, loc="left")
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legends(figure, axes, legend_handles(methods, regularizers, with_best=bool((rows["checkpoint"] == "best").any())))
    return figure


def colours(n: int) -> list[Any]:
    """n different colours that stay apart for colour-blind readers, as far as n allows; a scale from 8 on."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    import matplotlib as mpl

    # The light end of the scale is left out: it is lost on white.
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 0.93, n))]


def markers(n: int) -> list[str]:
    """n different markers: shapes, then numbers."""
    return [MARKERS[i] if i < len(MARKERS) else f"${i + 1}$" for i in range(n)]


def points(
    axes: "Axes",
    rows: pd.DataFrame,
    measure: str,
    target: str,
    methods: Sequence[str],
    regularizers: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Lines within cells, error bars up to `MAX_SINGLE` networks, and the points on top, which alone are drawn strong.

    Args:
        axes: Where.
        rows: As `plotted` gives them.
        measure: Column on the horizontal axis.
        target: Column on the vertical axis.
        methods: All that there are, in the order of their colours.
        regularizers: Likewise, of their markers.
        scale: Of the points' diameters.
    """
    from matplotlib.collections import LineCollection

    by_method = dict(zip(methods, colours(len(methods)), strict=True))
    # Along the measure: in order of seeds a line would run to and fro.
    cells = rows.groupby(list(GROUP), sort=False).ngroup().to_numpy()
    x, y = rows[measure].to_numpy(), rows[target].to_numpy()
    along = np.lexsort((y, x, cells))
    _, begins = np.unique(cells[along], return_index=True)
    lines = [line for line in np.split(along, begins[1:]) if len(line) > 1]
    segments = [np.stack([x[line], y[line]], axis=1) for line in lines]
    line_colours = [by_method[str(rows["method"].iat[line[0]])] for line in lines]
    axes.add_collection(
        LineCollection(segments, colors=line_colours, linewidths=0.8, alpha=0.6, zorder=2, gid=CELL_LINES)
    )
    for method, group in rows.groupby("method", sort=False) if len(rows) <= MAX_SINGLE else ():
        x_error, y_error = (_error(group, name) for name in (measure, target))
        if x_error is not None or y_error is not None:
            style: dict[str, Any] = {"fmt": "none", "elinewidth": 0.7, "capsize": 1.5, "alpha": 0.55, "zorder": 3}
            axes.errorbar(
                group[measure], group[target], xerr=x_error, yerr=y_error, ecolor=by_method[str(method)], **style
            )
    for regularizer, marker in zip(regularizers, markers(len(regularizers)), strict=True):
        for checkpoint in CHECKPOINTS:
            group = rows[(rows["regularizer"] == regularizer) & (rows["checkpoint"] == checkpoint)]
            if group.empty:
                continue
            point_colours = [by_method[method] for method in group["method"]]
            solid: dict[str, Any] = {"c": point_colours, "edgecolors": "white" if marker in MARKERS else None}
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": point_colours}
            axes.scatter(
                group[measure],
                group[target],
                s=(scale * _size(marker)) ** 2,
                marker=marker,
                linewidths=0.5 if checkpoint == "last" else 1.2,
                zorder=4,
                **(solid if checkpoint == "last" else hollow),
            )
    if len(rows) > MAX_SINGLE:
        for artist in (*axes.collections, *axes.lines):
            artist.set_rasterized(True)
    axes.margins(0.07)


def legend_handles(
    methods: Sequence[str], regularizers: Sequence[str], with_best: bool, scale: float = 1.0
) -> dict[str, list["Line2D"]]:
    """What legends show, by their titles: a colour per method, a marker per regularizer, and kinds of networks."""
    from matplotlib.lines import Line2D

    def handle(label: str, colour: Any, marker: str, hollow: bool = False) -> "Line2D":
        edge = "white" if marker in MARKERS and not hollow else colour
        style: dict[str, Any] = {"markeredgecolor": edge, "markeredgewidth": 0.5, "markersize": scale * _size(marker)}
        if hollow:
            style |= {"markerfacecolor": "none", "markeredgewidth": 1.2}
        return Line2D([], [], linestyle="none", color=colour, marker=marker, label=_wrapped(label), **style)

    found = {
        "Method": [handle(name, colour, "o") for name, colour in zip(methods, colours(len(methods)), strict=True)],
        "Regularizer": [
            handle(name, "0.35", mark) for name, mark in zip(regularizers, markers(len(regularizers)), strict=True)
        ],
    }
    if with_best:
        found["Network"] = [handle("last epoch", "0.35", "o"), handle("early-stopped", "0.35", "o", hollow=True)]
    return {title: handles for title, handles in found.items() if handles}


def _legends(figure: "Figure", axes: "Axes", handles_by_title: dict[str, list["Line2D"]]) -> None:
    """The legends right of the axes, one under the other; the axes grow to the height that they need."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    legends = [_legend(axes, title, handles) for title, handles in handles_by_title.items()]
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    heights = [legend.get_window_extent(renderer).height / figure.dpi for legend in legends]
    needed = sum(heights) + GAP_INCHES * (len(heights) - 1)
    height = max(AXES_INCHES[1], needed)
    width = max(AXES_INCHES[0], height)
    figure.set_size_inches(width, height)
    top = height
    for legend, own in zip(legends, heights, strict=True):
        legend.set_bbox_to_anchor((1 + GAP_INCHES / width, top / height), transform=axes.transAxes)
        top -= own + GAP_INCHES


def _legend(axes: "Axes", title: str, handles: list["Line2D"]) -> "Legend":
    """A legend of its own beside others, without a frame, in as many columns as its entries need."""
    from matplotlib.legend import Legend

    legend = Legend(
        axes,
        handles,
        [str(item.get_label()) for item in handles],
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
        borderpad=0.0,
        frameon=False,
        alignment="left",
        fontsize=8,
        title_fontproperties={"size": 9, "weight": "bold"},
        handletextpad=0.3,
        columnspacing=1.0,
        ncols=-(-len(handles) // LEGEND_ROWS),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.add_artist(legend)
    # A legend is clipped to its axes by default when it is added as an artist.
    legend.set_clip_on(False)
    return legend


def _title(rows: pd.DataFrame, labels: pd.DataFrame, measure: str, target: str) -> str:
    """Numbers of trials and cells, and the coefficients, or why there are none."""
    cells = len(rows[list(CELL)].drop_duplicates())
    absent = len(labels) - len(rows)
    values = point_estimates(rows[measure].to_numpy(), rows[target].to_numpy())
    lines = [f"n = {len(rows)} networks in {cells} cells" + (f", {absent} without both values" if absent else "")]
    if len(rows) > MAX_SINGLE and {f"{measure}_se", f"{target}_se"} & set(rows):
        lines[0] += ", standard errors not drawn"
    if isinstance(values, str):
        lines.append("no correlation: " + values.replace("the measure", measure).replace("the target", target))
    else:
        lines.append(f"Pearson r = {values[0]:.2f}, Kendall τ = {values[2]:.2f}")
    return "\n".join(lines)


def _error(rows: pd.DataFrame, column: str) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
    """Standard errors of a column, NaN (no bar) where there is none."""
    if f"{column}_se" not in rows:
        return None
    values = rows[f"{column}_se"].to_numpy()
    return np.where(values >= 0, values, np.nan)


def numbered(labels: "pd.Series[Any]") -> list[str]:
    """The different labels, in order of appearance: the grid's order."""
    return [str(label) for label in labels.unique()]


def _size(marker: str) -> float:
    """Diameter in points at which the marker looks as large as the others."""
    return {"*": 9.0, "^": 6.8, "v": 6.8, "<": 6.8, ">": 6.8, "D": 5.6}.get(marker, 6.3 if marker in MARKERS else 7.5)


def _wrapped(label: str) -> str:
    return textwrap.fill(label, LEGEND_LETTERS, break_long_words=False, break_on_hyphens=False)
