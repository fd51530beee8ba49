"""CSV, Markdown, LaTeX and the terminal say the same numbers as the result."""

import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.correlation import correlate, correlate_by
from orchestrator.analysis.formats import as_csv, as_latex, as_markdown, flat_rows, shown_p
from orchestrator.analysis.render import render, render_groups
from tests.analysis.tables import MEASURE, TARGET, grid

OTHER = "robust_error_test"


@pytest.fixture(scope="module")
def table():
    made = grid(["at", "trades", "mart"], ["none", "awp", "swa", "sam"], seeds=4)
    made[TARGET] = made[MEASURE] + 0.3 * made[TARGET]
    noise = np.random.default_rng(3).normal(size=(2, len(made)))
    return made.assign(**{OTHER: noise[0], "hessian_trace": 1.0, "robust_loss_train": noise[1]})


@pytest.fixture(scope="module")
def found(table):
    return correlate(table, resamples=100)


def printed(renderable, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


def test_csv_has_every_number(table, found):
    groups = correlate_by(table, "method", resamples=50)
    rows = list(csv.DictReader(io.StringIO(as_csv({"": found, **groups}))))
    assert [row["group"] for row in rows] == [""] * 4 + ["at"] * 4 + ["trades"] * 4 + ["mart"] * 4
    for row, pair in zip(rows, found.pairs, strict=False):
        assert (row["target"], row["measure"], int(row["networks"])) == (pair.target, pair.measure, pair.networks)
        for name in ("pearson", "spearman", "kendall", "partial_pearson", "partial_spearman"):
            item = getattr(pair, name)
            read = [float(row[key]) if row[key] else None for key in (name, f"{name}_low", f"{name}_high")]
            assert read == [item.value, item.low, item.high]
        assert (row["p_holm"] or None) == (None if pair.p.holm is None else str(pair.p.holm))
        assert (row["psi"] or None) == (None if pair.granulated.psi is None else str(pair.granulated.psi))
        assert row["reason"] == (pair.kendall.reason or "")


def test_an_empty_result_has_no_rows():
    assert flat_rows({}) == []


def test_markdown_is_a_table_per_target(found):
    text = as_markdown({"": found})
    tau = found.pairs[0].kendall
    assert text.startswith(f"**{TARGET}**\n\n| measure | n (cells) |")
    assert f"| `{MEASURE}` | 48 (12) |" in text
    assert f"| {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}] |" in text
    assert "| `hessian_trace` | 48 (12) | - | - | - | - |" in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert columns == {7}


def test_markdown_of_a_group_with_a_bar(found):
    assert "**a\\|b: " in as_markdown({"a|b": found})


def test_latex_is_whole_and_escaped(found):
    text = as_latex({"": found, "method = a_b & c": found})
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        if r"\multicolumn" not in line and line != r"\midrule":
            assert len(re.findall(r"(?<!\\)&", line)) == 5 and line.endswith(r" \\")
    assert r"average\_flatness\_xi0.5 & 48 (12) & $" in text
    assert r"\emph{method = a\_b \& c: robust\_loss\_gap}" in text
    assert not re.search(r"(?<!\\)_", body.replace(r"\tau_b", ""))


def test_p_values():
    assert [shown_p(p) for p in (None, 1.0, 0.0345, 0.00012, 3e-7)] == ["-", "1", "0.035", "0.00012", "<0.0001"]
    assert "$<$0.0001" in as_latex_row()


def as_latex_row():
    names = [f"m{number}" for number in range(40)]
    made = grid(names)
    return as_latex({"": correlate(made.assign(**{TARGET: made[MEASURE]}), [MEASURE], [TARGET], resamples=20)})


def test_the_terminal_shows_the_matrix_and_more_of_the_first_target(found):
    text = printed(render(found))
    pair = found.pairs[0]
    assert "Kendall tau-b" in text and "robust error" in text
    assert f"{pair.kendall.value:.2f}*" in text, "a star where Holm's p is below 0.05"
    assert pair.p.holm < 0.05
    assert f"[{pair.partial_pearson.low:.2f}, {pair.partial_pearson.high:.2f}]" in text
    assert f"{pair.granulated.psi:.2f}" in text
    assert f"{pair.sensitivity.low:.2f} to {pair.sensitivity.high:.2f}" in text
    assert f"{pair.sign_error.maximum:.2f}" in text and pair.sign_error.worst in text
    assert "after Holm's correction for 2 tests" in " ".join(text.split())


def test_one_target_needs_no_matrix(table):
    text = printed(render(correlate(table, [MEASURE], [TARGET], resamples=20)))
    assert text.count("Kendall tau-b") == 1


def test_groups_have_their_answers(table):
    groups = correlate_by(table, "regularizer", [MEASURE], [TARGET], resamples=50)
    text = " ".join(printed(render_groups("regularizer", groups), width=300).split())
    for name, result in groups.items():
        assert f"regularizer = {name} {result.answer}" in text
