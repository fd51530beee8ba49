"""The figure for a paper: vector graphics of a column's width, with all that is drawn inside."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from orchestrator.analysis.column_figure import WIDTH, column_figure, draw_column
from orchestrator.errors import UserError
from tests.analysis.tables import MEASURE, TARGET, grid

TABLE = grid(["at", "trades(beta=6)", "awp(at, gamma=0.01)"], ["none", "label_noise(rate=0.3)"], seeds=3)


def test_a_pdf_is_as_wide_as_a_column_with_its_fonts_inside(tmp_path):
    path = tmp_path / "new" / "gap.pdf"
    column_figure(TABLE, MEASURE, TARGET, path)
    content = path.read_bytes()
    (width, height) = map(float, re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", content).groups())
    assert width == pytest.approx(72 * WIDTH)
    assert 72 * 2 < height < 72 * 5
    assert b"/FontFile2" in content and b"/Subtype /Type3" not in content
    assert b"/Subtype /Image" not in content, "points are drawn, not painted"


@pytest.mark.parametrize("suffix", [".svg", ".PDF"])
def test_other_vector_formats(suffix, tmp_path):
    path = tmp_path / f"gap{suffix}"
    column_figure(TABLE, MEASURE, TARGET, path)
    assert path.stat().st_size > 1000


def test_same_table_same_file(tmp_path):
    for name in "ab":
        column_figure(TABLE, MEASURE, TARGET, tmp_path / f"{name}.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


@pytest.mark.parametrize(("methods", "regularizers"), [(3, 2), (12, 9)])
def test_nothing_sticks_out_or_overlaps(methods, regularizers):
    names = [f"method{number}(beta={number})" for number in range(methods)]
    table = grid(
        names, [f"regularizer{number}" for number in range(regularizers)], seeds=2, checkpoints=("last", "best")
    )
    figure = draw_column(table, MEASURE, TARGET)
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [figure.axes[0].get_tightbbox(), *(legend.get_window_extent() for legend in figure.legends)]
    assert len(boxes) == 4, "methods, regularizers and kinds of networks"
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 >= lower.y1 - 1
    points = [item for item in figure.axes[0].get_children() if isinstance(item, PathCollection)]
    assert sum(len(item.get_offsets()) for item in points) == len(table)


def test_a_legend_of_one_entry_says_nothing():
    assert draw_column(grid(["at"], seeds=3), MEASURE, TARGET).legends == []


def test_what_is_no_vector_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gap.png: a vector figure ends in .pdf or .svg"):
        column_figure(TABLE, MEASURE, TARGET, tmp_path / "gap.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        column_figure(TABLE, MEASURE, TARGET, tmp_path / "file" / "gap.pdf")
    with pytest.raises(UserError, match="did you mean"):
        column_figure(TABLE, MEASURE, f"{TARGET}s", tmp_path / "gap.pdf")


def test_no_network_with_both_values_still_gives_axes(tmp_path):
    column_figure(TABLE.assign(**{MEASURE: np.nan}), MEASURE, TARGET, tmp_path / "gap.pdf")
    assert (tmp_path / "gap.pdf").exists()
