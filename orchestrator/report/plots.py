"""What the page's script draws, as plain data: networks with all their columns, curves along training, colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.columns import COST, SE, TRAINING, Column, column_of
from orchestrator.analysis.correlation import TARGETS
from orchestrator.analysis.figures import COLOURS
from orchestrator.analysis.table import compared, finished
from orchestrator.report.headline import Conclusion
from workers import layout

DARK_COLOURS = ("#5AA9E6", "#F28A45", "#2FC79B", "#E3A1C8", "#F2B93B", "#9AD4F7", "#E9E9EC")
"""`COLOURS`, light enough for small marks on a dark page."""
SCALE_STOPS = 17
LABELS = ("method", "method_name", "regularizer", "setting", "checkpoint", "sweep")
"""Columns of text that colour, shape and tooltips may use."""
PLACES = ("trial_id", "run_id", "flags")
COUNTS = ("seed", "epoch", "attempt")
CURVE_VALUES = 100_000
"""At most so many values of each kind of curves; beyond, the curves are thinned."""
Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Column -> (epoch, value), ascending."""


def payload(
    table: pd.DataFrame, conclusion: Conclusion, training: Mapping[str, Curves], run_base: str | None
) -> dict[str, Any]:
    """Everything that the script needs; ready for JSON, without NaN.

    Args:
        table: as `analysis.table.trial_table` makes it.
        conclusion: its coefficients stand beside the points.
        training: trial id -> what training recorded along the way.
        run_base: what stands before a run's id in the address of its page; None where there is no such page.
    """
    networks = compared(table)
    numbers = numeric(networks)
    return {
        "colours": {"light": COLOURS, "dark": DARK_COLOURS, "scale": scale()},
        "runBase": run_base,
        "networks": {
            "size": len(networks),
            "columns": {name: _column(networks[name], column_of(name)) for name in _shown(networks, numbers)},
        },
        "choices": _choices(networks, numbers),
        "start": {"x": _first(conclusion.measures, numbers), "y": _first([*conclusion.targets, *TARGETS], numbers)},
        "pairs": [
            {"x": pair.measure, "y": pair.target, "low": pair.kendall.low, "high": pair.kendall.high}
            for pair in (conclusion.result.pairs if conclusion.result else ())
        ],
        "curves": curves(table, training),
    }


def numeric(networks: pd.DataFrame) -> list[str]:
    """Value columns that hold a finite number, without standard errors."""
    known = {*LABELS, *PLACES, *COUNTS, "state", "error", "error_class", "evaluation_id"}
    names = [str(name) for name in networks if name not in known and not str(name).endswith(SE)]
    return [name for name in names if np.isfinite(_floats(networks[name])).any()]


def scale() -> list[str]:
    """Viridis from dark to light, for numbers and for many methods."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 1, SCALE_STOPS))]


def curves(table: pd.DataFrame, training: Mapping[str, Curves]) -> dict[str, Any]:
    """Trials with a value at more than one epoch, and their values by column.

    Returns:
        `trials`: labels, by trial. `axes`: different lists of epochs. `series`: for each column its label and unit,
        `thinned`, and by trial [which axis, values, best]; `best` is [epoch, value] of the early-stopped network, or
        None.
    """
    measured, best = _measured(table)
    series: dict[str, dict[str, Any]] = {}
    axes: dict[tuple[int, ...], int] = {}
    for kind in (measured, training):
        points = sum(len(curve) for found in kind.values() for curve in found.values())
        every = max(1, math.ceil(points / CURVE_VALUES))
        for trial_id, found in kind.items():
            for name, curve in found.items():
                if len(curve) < 2:
                    continue
                own = best.get(trial_id, {})
                kept = _thinned(curve, every, keep=int(own["epoch"]) if "epoch" in own else None)
                column = column_of(name)
                entry = series.setdefault(
                    name, {"label": column.label, "unit": column.unit, "thinned": every > 1, "of": {}}
                )
                axis = axes.setdefault(tuple(epoch for epoch, _ in kept), len(axes))
                entry["of"][trial_id] = [axis, [_short(value) for _, value in kept], _best(name, own, curve)]
    ids = list(dict.fromkeys(trial_id for entry in series.values() for trial_id in entry["of"]))
    rows = table.drop_duplicates("trial_id").set_index("trial_id")
    places = {trial_id: place for place, trial_id in enumerate(ids)}
    for entry in series.values():
        entry["of"] = {places[trial_id]: curve for trial_id, curve in entry["of"].items()}
    labels = ("method", "regularizer", "setting", "seed", "run_id")
    return {
        "trials": [{name: _plain(rows.at[trial_id, name]) for name in labels} for trial_id in ids],
        "axes": list(axes),
        "series": series,
    }


def _measured(table: pd.DataFrame) -> tuple[Mapping[str, Curves], dict[str, dict[str, float]]]:
    """Values of kept epochs and of the end, by trial and column; and the rows of early-stopped networks."""
    done = finished(table)
    kept_trials = set(done.loc[done["checkpoint"].str.startswith("epoch "), "trial_id"])
    names = [name for name in numeric(done) if column_of(name).group not in {TRAINING, COST}]
    values: dict[str, dict[str, list[tuple[int, float]]]] = {}
    best: dict[str, dict[str, float]] = {}
    floats = {name: _floats(done[name]) for name in names}
    for place, (trial_id, checkpoint, epoch) in enumerate(
        done[["trial_id", "checkpoint", "epoch"]].itertuples(index=False)
    ):
        if pd.isna(epoch) or not (checkpoint == layout.BEST or trial_id in kept_trials):
            continue
        row = {name: float(floats[name][place]) for name in names if math.isfinite(floats[name][place])}
        if checkpoint == layout.BEST:
            best[trial_id] = {"epoch": float(epoch)} | row
        else:
            for name, value in row.items():
                values.setdefault(trial_id, {}).setdefault(name, []).append((int(epoch), value))
    for trial_id, curves_of in values.items():
        own = best.get(trial_id, {})
        for name, curve in curves_of.items():
            if name in own and int(own["epoch"]) not in dict(curve):
                curve.append((int(own["epoch"]), own[name]))
            curve.sort()
    return values, best


def _best(name: str, own: Mapping[str, float], curve: Sequence[tuple[int, float]]) -> list[float] | None:
    """Where the early-stopped network is on a curve."""
    if "epoch" not in own:
        return None
    value = own.get(name, dict(curve).get(int(own["epoch"])))
    return None if value is None else [int(own["epoch"]), _short(value)]


def _thinned(curve: Sequence[tuple[int, float]], every: int, keep: int | None) -> list[tuple[int, float]]:
    """Every so manieth point, the first, the last, and that of one epoch."""
    last = len(curve) - 1
    return [point for place, point in enumerate(curve) if place % every == 0 or place == last or point[0] == keep]


def _shown(networks: pd.DataFrame, numbers: Sequence[str]) -> list[str]:
    """The columns that are sent: labels, numbers and their standard errors."""
    errors = [f"{name}{SE}" for name in numbers if f"{name}{SE}" in networks]
    return [name for name in (*PLACES, *LABELS, *COUNTS, *numbers, *errors) if name in networks]


def _column(values: "pd.Series[Any]", column: Column) -> dict[str, Any]:
    """Numbers as they are, six digits; texts as codes into their different values, in the grid's order."""
    shown: dict[str, Any] = {"label": column.label, "unit": column.unit}
    if column.name in LABELS or column.name in PLACES:
        texts = ["" if pd.isna(value) else str(value) for value in values]
        levels = list(dict.fromkeys(texts))
        codes = {level: code for code, level in enumerate(levels)}
        return shown | {"levels": levels, "codes": [codes[text] for text in texts]}
    return shown | {"values": [_short(value) if math.isfinite(value) else None for value in _floats(values)]}


def _choices(networks: pd.DataFrame, numbers: Sequence[str]) -> dict[str, Any]:
    """What the page's menus offer: values by kind, and the columns that colour and shape may show."""
    groups: dict[str, list[str]] = {"Gaps and test values": [], "Measures": [], TRAINING: [], COST: []}
    for name in numbers:
        group = column_of(name).group
        kind = group if group in {TRAINING, COST} else "Gaps and test values" if name in TARGETS else "Measures"
        groups[kind].append(name)
    texts = [name for name in (*LABELS, *COUNTS) if name in networks and networks[name].nunique(dropna=False) > 1]
    return {"numbers": [[kind, names] for kind, names in groups.items() if names], "labels": texts or ["method"]}


def _first(names: Sequence[str], numbers: Sequence[str]) -> str | None:
    return next((name for name in (*names, *numbers) if name in numbers), None)


def _floats(values: "pd.Series[Any]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.asarray(pd.to_numeric(values, errors="coerce").astype("float64"), dtype=np.float64)


def _short(value: float) -> float:
    """Six significant digits: more than a screen shows, fewer bytes; whole numbers without a point."""
    value = float(f"{value:.6g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _plain(value: Any) -> Any:
    return "" if pd.isna(value) else value.item() if isinstance(value, np.generic) else value
