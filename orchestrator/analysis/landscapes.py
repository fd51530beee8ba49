"""Figures of loss landscapes: the curves of all networks in one, a contour for each surface; PNG, SVG and their data.

The arrays come from the result files in the trials' folders. matplotlib is imported inside the functions, and used
without pyplot: no global state, no display.
"""

import io
import logging
import math
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from orchestrator.analysis.columns import VALUES
from orchestrator.analysis.figures import CHECKPOINTS, colours, save
from orchestrator.analysis.table import compared, finished
from orchestrator.local_folder import stored_folder
from orchestrator.spec.landscape_measures import Landscape
from orchestrator.spec.measures import KINDS
from orchestrator.spec.sweep import Sweep
from workers import layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 28
"""Of the arrays of one network."""
LABELS = ("trial_id", "checkpoint", "method", "regularizer", "setting", "seed")
PANEL = ("checkpoint", "regularizer", "setting")
"""Networks that are alike in these share a panel, in which methods are compared."""
PANELS_IN_ROW = 4
PANEL_INCHES, SINGLE_PANEL_INCHES = (2.3, 2.1), (4.2, 3.4)
LEGEND_INCHES = 1.9
LETTERS = 28
"""In a line of a panel's title and of the legend."""
SURFACE_INCHES = (3.0, 2.8)
BAND = "band"
"""The id, in the figure and in the SVG, of the bands over seeds."""
LEVELS = 15
"""At most so many levels of contours."""
ROUND = ((1.0, 1.4, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,))
"""Digits of levels, from fine to coarse."""


class Drawn(NamedTuple):
    """Figures with their data, and what could not be drawn."""

    files: list[Path]
    notes: list[str]


def landscapes(sweep: Sweep, table: pd.DataFrame, folder: Path) -> Drawn:
    """Draws every landscape that the sweep's evaluation measures; nothing where it measures none.

    Args:
        sweep: whose trials' folders hold the arrays.
        table: the sweep's networks, as `analysis.table.trial_table` makes it.
        folder: where to; made if missing.

    Returns:
        Curves over alpha: one figure for a measure. Surfaces: one figure for a network, at the same levels for all.

    Raises:
        OSError: the folder cannot be written.
    """
    drawn = Drawn([], [])
    done = finished(table)
    for measure in sweep.evaluation.measures:
        if not isinstance(measure, Landscape):
            continue
        # an early-stopped network that is the last one has a curve among the early-stopped, but no second surface
        networks = done[done["checkpoint"].isin(CHECKPOINTS)] if measure.dimensions == 1 else compared(table)
        points, missing = read(sweep, networks, measure)
        drawn.notes.extend(
            f"no {measure.named()} of {who}: its file is not in the sweep's storage, or damaged" for who in missing
        )
        if points.empty:
            continue
        if measure.dimensions == 1:
            drawn.files.extend(save(draw_curves(points, measure.split), points, folder / measure.named()))
            continue
        levels = contour_levels(points["robust_loss"].to_numpy())
        for (trial_id, checkpoint), own in points.groupby(["trial_id", "checkpoint"], sort=False):
            name = f"{measure.named()}-{trial_id}" + ("" if checkpoint == layout.LAST else f"-{checkpoint}")
            drawn.files.extend(save(draw_surface(own, measure.split, levels), own, folder / name))
    return drawn


def read(sweep: Sweep, networks: pd.DataFrame, measure: Landscape) -> tuple[pd.DataFrame, list[str]]:
    """The landscapes of networks as a table, and the names of those whose file is missing or damaged.

    Returns:
        Columns `LABELS`, `draw`, `alpha` (and `beta`), and those of `KINDS`: a row for each network, draw and point.
    """
    tables, missing, root = [], [], stored_folder(sweep)
    last_epochs = networks[networks["checkpoint"] == layout.LAST].set_index("trial_id")["epoch"].to_dict()
    for network, epoch in zip(networks[list(LABELS)].to_dict("records"), networks["epoch"], strict=True):
        row = {str(key): value for key, value in network.items()}
        # the last network under its other name, the best one, has no file of its own
        which = layout.LAST if epoch == last_epochs.get(row["trial_id"]) else row["checkpoint"]
        name = layout.arrays_name(layout.result_name(measure, sweep.evaluation.seed, which))
        try:
            if root is None:
                raise FileNotFoundError(name)
            content = (root / row["trial_id"] / layout.MEASURES).read(name)
        except FileNotFoundError:
            missing.append(f"{row['trial_id']} ({row['method']} | {row['regularizer']} | seed {row['seed']})")
            continue
        try:
            tables.append(pd.DataFrame(row | _columns(_arrays(content))))
        except Exception as error:  # numpy and zipfile raise many for what they cannot read
            logger.warning("%s of trial %s cannot be read: %s", name, row["trial_id"], str(error)[:300])
            missing.append(f"{row['trial_id']} ({row['method']} | {row['regularizer']} | seed {row['seed']})")
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), missing


def _arrays(content: bytes) -> dict[str, Any]:
    """The arrays of a landscape.

    Raises:
        ValueError: they are larger than `MAX_BYTES`, or cannot be read, which numpy and zipfile say in other ways too.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"its arrays are larger than {MAX_BYTES} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _columns(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays over draws and points as columns of equal length."""
    shape = arrays["robust_loss"].shape
    draw, *places = np.indices(shape)
    axes = {name: arrays["alpha"][place].ravel() for name, place in zip(("alpha", "beta"), places, strict=False)}
    return {"draw": draw.ravel(), **axes, **{kind: arrays[kind].ravel() for kind in KINDS}}


def draw_curves(table: pd.DataFrame, split: str = "test", kind: str = "robust_loss") -> "Figure":
    """One of `KINDS` over alpha: methods as colours, the mean over seeds with a band of one standard deviation.

    Each network's curve is the mean of its draws. Regularisers, settings and early-stopped networks have panels of
    their own, with common axes.

    Args:
        table: as `read` makes it, of curves.
        split: of the images, for the axis.
        kind: column to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    by_method = dict(zip(methods := list(table["method"].unique()), colours(len(methods)), strict=True))
    panels = sorted(table.groupby(list(PANEL), sort=False), key=lambda panel: CHECKPOINTS.index(panel[0][0]))
    rows = -(-len(panels) // PANELS_IN_ROW)
    columns = -(-len(panels) // rows)
    width, height = PANEL_INCHES if len(panels) > 1 else SINGLE_PANEL_INCHES
    figure = Figure(figsize=(width * columns + LEGEND_INCHES, height * rows), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (names, panel) in zip(grid.flat, panels, strict=False):
        _curves(axes, panel, kind, by_method)
        axes.set_title(_wrapped(_panel_title(names)), fontsize=8.5, loc="left", parse_math=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes in grid.flat[len(panels) - columns : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("α, in filter norms", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{VALUES[kind][0]}, {split} ({'fraction' if kind.endswith('error') else 'nats'})", fontsize=9)
    grid.flat[0].set_ylim(0, _top(table, kind))
    handles: list[Any] = [Line2D([], [], color=colour, label=_wrapped(method)) for method, colour in by_method.items()]
    if table.groupby([*PANEL, "method"])["seed"].nunique().max() > 1:
        handles.append(Patch(color="0.8", label="± 1 standard deviation\nover seeds"))
    legend = figure.legend(
        handles=handles,
        loc="outside right upper",
        title="Method",
        title_fontproperties={"size": 9, "weight": "bold"},
        fontsize=8,
        frameon=False,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _curves(axes: "Axes", panel: pd.DataFrame, kind: str, by_method: dict[str, Any]) -> None:
    """The methods of one panel."""
    for method, group in panel.groupby("method", sort=False):
        networks = group.groupby(["seed", "alpha"])[kind].mean().unstack("alpha")
        alpha, mean, colour = networks.columns.to_numpy(), networks.mean().to_numpy(), by_method[str(method)]
        axes.plot(alpha, mean, color=colour, linewidth=1.4, zorder=3)
        if len(networks) > 1:
            spread = networks.std().to_numpy()
            style: dict[str, Any] = {"alpha": 0.18, "linewidth": 0, "zorder": 2, "gid": BAND}
            axes.fill_between(alpha, mean - spread, mean + spread, color=colour, **style)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)
    _ticks(axes)


def _ticks(axes: "Axes") -> None:
    """Small labels without needless zeros, that do not run into those of the next panel."""
    axes.tick_params(labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def _top(table: pd.DataFrame, kind: str) -> float:
    """Where the vertical axis ends: 3 times as high as the lowest curve climbs, or higher for every curve's floor.

    Up to the top of the highest curve, that of a network without defence, the others would look flat.
    """
    curves = table.groupby([*PANEL, "method", "alpha"], sort=False)[kind].mean()
    curves = curves[np.isfinite(curves)]
    cells = curves.groupby([*PANEL, "method"], sort=False)
    if curves.empty:
        return 1.0
    tops = cells.max()
    return float(min(1.05 * tops.max(), max(3 * tops.min(), 1.25 * cells.min().max())))


def _panel_title(names: Any) -> str:
    checkpoint, regularizer, setting = map(str, names)
    which = ["no regularizer" if regularizer == "none" else regularizer, setting]
    return ", ".join(part for part in (*which, "early-stopped" if checkpoint == layout.BEST else "") if part)


def _wrapped(text: str, letters: int = LETTERS) -> str:
    return textwrap.fill(text, letters, break_long_words=False, break_on_hyphens=False)


def contour_levels(values: "np.ndarray[Any, np.dtype[np.float64]]") -> list[float]:
    """Round levels around all losses, about evenly spaced in the logarithm: a valley's floor is what matters.

    Empty where no loss is finite and above 0.
    """
    known = values[np.isfinite(values) & (values > 0)]
    if not known.size:
        return []
    decades = range(math.floor(math.log10(known.min())), math.ceil(math.log10(known.max())) + 1)
    levels: list[float] = []
    for digits in ROUND:
        marks = [digit * 10.0**decade for decade in decades for digit in digits]
        low, high = np.searchsorted(marks, known.min(), "right") - 1, np.searchsorted(marks, known.max(), "left")
        levels = marks[low : max(int(high), int(low) + 1) + 1]
        if len(levels) <= LEVELS:
            return levels
    return levels[-LEVELS:]


def draw_surface(table: pd.DataFrame, split: str, levels: Sequence[float], kind: str = "robust_loss") -> "Figure":
    """Contours of one of `KINDS` over alpha and beta of one network, a panel for each draw.

    Args:
        table: as `read` makes it, of one network's surfaces.
        split: of the images, for the scale.
        levels: of the contours, rising; with none nothing but the place of w is drawn.
        kind: column to draw.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    draws = list(table.groupby("draw", sort=True))
    figure = Figure(figsize=(SURFACE_INCHES[0] * len(draws) + 0.8, SURFACE_INCHES[1]), dpi=100, layout="constrained")
    grid = figure.subplots(1, len(draws), sharex=True, sharey=True, squeeze=False)
    for number, (axes, (_, surface)) in enumerate(zip(grid.flat, draws, strict=True), 1):
        values = surface.pivot_table(index="beta", columns="alpha", values=kind, dropna=False)
        alpha, beta = values.columns.to_numpy(), values.index.to_numpy()
        if levels:
            heights = values.clip(levels[0], levels[-1]).to_numpy()
            filled = axes.contourf(
                alpha, beta, heights, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="viridis_r"
            )
            axes.contour(alpha, beta, heights, levels=levels[1:-1], colors="white", linewidths=0.4)
        axes.plot(0, 0, marker="+", color="black", markersize=7)
        axes.set_aspect("equal")
        axes.set_xlabel("α")
        _ticks(axes)
        if len(draws) > 1:
            axes.set_title(f"plane {number}", fontsize=8.5)
    grid.flat[0].set_ylabel("β")
    if levels:
        bar = figure.colorbar(filled, ax=list(grid.flat), format="%g", ticks=levels)
        bar.set_label(f"{VALUES[kind][0]}, {split} (nats)", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    first = table.iloc[0]
    title = f"{first['method']} | {_panel_title([first[key] for key in PANEL])} | seed {first['seed']}"
    figure.suptitle(_wrapped(title, 50 * len(draws)), fontsize=9).set_parse_math(False)
    return figure
