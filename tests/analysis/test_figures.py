"""What the figures show is in the Figure object and in the files beside it."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.legend import Legend

from orchestrator.analysis.columns import axis_label
from orchestrator.analysis.figures import CELL_LINES, colours, draw, markers, scatter
from orchestrator.errors import UserError

MEASURE = "average_flatness_xi0.5"
TARGET = "robust_loss_gap"


def grid(methods, regularizers, seeds, se=True):
    generator = np.random.default_rng(0)
    rows = [
        {
            "trial_id": f"{method}/{regularizer}/{seed}",
            "checkpoint": "last",
            "method": method,
            "method_name": method.partition("(")[0],
            "regularizer": regularizer,
            "setting": "",
            "seed": seed,
            MEASURE: generator.random(),
            **({f"{MEASURE}_se": 0.1 * generator.random()} if se else {}),
            TARGET: generator.random(),
        }
        for method in methods
        for regularizer in regularizers
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def artists(figure, kind):
    return [item for item in figure.axes[0].get_children() if isinstance(item, kind)]


def cell_lines(figure):
    (lines,) = (item for item in artists(figure, LineCollection) if item.get_gid() == CELL_LINES)
    return lines.get_segments()


def test_files(tmp_path):
    table = grid(["at", "trades(beta=6)"], ["none", "awp(gamma=0.01)"], 2)
    paths = scatter(table, MEASURE, TARGET, tmp_path / "new" / "gap_over_xi0.5")
    assert [path.name for path in paths] == [f"gap_over_xi0.5.{kind}" for kind in ("png", "svg", "csv")]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    svg = paths[1].read_text(encoding="utf-8")
    for text in (
        "trades(beta=6)",
        "awp(gamma=0.01)",
        "Average-case flatness, ξ = 0.5 (nats)",
        "n = 8 networks in 4 cells",
    ):
        assert text in svg
    written = pd.read_csv(paths[2], dtype=str, keep_default_na=False)
    assert set(written) == set(table)
    for column, values in table.items():
        assert [type(value)(text) for text, value in zip(written[column], values, strict=True)] == list(values)


def test_same_table_same_files(tmp_path):
    table = grid(["at", "trades(beta=6)"], ["none"], 2)
    first, second = (scatter(table, MEASURE, TARGET, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_seeds_of_a_cell_are_joined():
    table = grid(["at", "trades(beta=6)"], ["none"], 2)
    segments = cell_lines(draw(table, MEASURE, TARGET))
    expected = [table[table["method"] == method].sort_values(MEASURE) for method in ("at", "trades(beta=6)")]
    assert len(segments) == 2
    for segment, cell in zip(segments, expected, strict=True):
        np.testing.assert_allclose(segment, cell[[MEASURE, TARGET]])


def test_no_line_for_one_seed():
    assert cell_lines(draw(grid(["at", "mart"], ["none"], 1), MEASURE, TARGET)) == []


def test_settings_are_cells_of_their_own():
    table = grid(["at"], ["none"], 4).assign(setting=["lr=0.1", "lr=0.1", "lr=0.2", "lr=0.2"])
    assert len(cell_lines(draw(table, MEASURE, TARGET))) == 2


def test_every_trial_is_a_point_with_the_colour_of_its_method():
    table = grid(["at", "mart", "trades"], ["none", "awp"], 2)
    points = artists(draw(table, MEASURE, TARGET), PathCollection)
    assert len(points) == 2
    np.testing.assert_allclose(
        np.concatenate([item.get_offsets() for item in points]),
        pd.concat([table[table["regularizer"] == name] for name in ("none", "awp")])[[MEASURE, TARGET]],
    )
    assert all(len({tuple(colour) for colour in item.get_facecolors()}) == 3 for item in points)


def test_error_bars_only_where_recorded():
    with_se, without = (draw(grid(["at"], ["none"], 3, se=se), MEASURE, TARGET) for se in (True, False))
    assert len(artists(with_se, LineCollection)) == len(artists(without, LineCollection)) + 1


def test_rows_without_both_values_are_counted_and_not_drawn(tmp_path):
    table = grid(["at", "mart"], ["none"], 3)
    table.loc[0, MEASURE] = np.nan
    table.loc[1, TARGET] = np.inf
    table.loc[2, f"{MEASURE}_se"] = np.nan
    figure = draw(table, MEASURE, TARGET)
    assert sum(len(item.get_offsets()) for item in artists(figure, PathCollection)) == 4
    assert "n = 4 networks in 2 cells, 2 without both values" in figure.axes[0].get_title(loc="left")
    assert len(pd.read_csv(scatter(table, MEASURE, TARGET, tmp_path / "f")[2])) == 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_trials_still_give_a_figure(n, tmp_path):
    figure = draw(grid(["at"], ["none"], 2).iloc[:n], MEASURE, TARGET)
    assert "no correlation" in figure.axes[0].get_title(loc="left")
    figure.savefig(tmp_path / "few.png")


@pytest.mark.parametrize(("n", "seeds"), [(3, 2), (30, 1)])
def test_legends_overlap_nothing(n, seeds):
    table = grid(
        [f"method{i}(beta={i})" for i in range(n)], [f"regularizer{i}(strength=0.{i})" for i in range(n)], seeds
    )
    figure = draw(table, MEASURE, TARGET)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legends = artists(figure, Legend)
    assert [legend.get_title().get_text() for legend in legends] == ["Method", "Regularizer"]
    assert [len(legend.get_texts()) for legend in legends] == [n, n]
    inside = axes.get_window_extent()
    first, second = (legend.get_window_extent() for legend in legends)
    assert first.x0 > inside.x1
    assert second.x0 > inside.x1
    assert first.y0 >= second.y1
    assert second.y0 >= inside.y0 - 1


def test_labels_are_taken_as_they_are(tmp_path):
    label = "odd$_method<&>[1]$"
    svg = scatter(grid([label], ["none"], 2), MEASURE, TARGET, tmp_path / "odd")[1].read_text(encoding="utf-8")
    assert "odd$_method&lt;&amp;&gt;[1]$" in svg


def test_colours_and_markers_differ():
    for n in (1, 7, 8, 30):
        assert len({tuple(np.atleast_1d(colour)) for colour in colours(n)}) == n
        assert len(set(markers(n))) == n


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("robust_loss_gap", "Robust loss gap, test − train (nats)"),
        ("clean_error_test", "Clean error, test (fraction)"),
        ("worst_flatness_xi0.003", "Worst-case flatness, ξ = 0.003 (nats)"),
        ("average_flatness_xi0.5_train", "Average-case flatness, ξ = 0.5, train images (nats)"),
        ("average_flatness_xi0.5_error", "Average-case flatness of the error, ξ = 0.5 (fraction)"),
        ("worst_flatness_xi0.1_filter_train", "Worst-case flatness, ξ = 0.1, per filter, train images (nats)"),
        ("hessian_trace", "hessian_trace"),
    ],
)
def test_axis_labels_have_units(column, label):
    assert axis_label(column) == label


def test_unknown_column():
    with pytest.raises(UserError, match=f"did you mean '{TARGET}'"):
        draw(grid(["at"], ["none"], 2), MEASURE, "robust_los_gap")


def test_importing_does_not_load_matplotlib():
    code = "import sys, orchestrator.analysis.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
