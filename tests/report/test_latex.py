"""The paper's table: numbers against pandas, and text that LaTeX can take whatever the names are."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.table import compared
from orchestrator.errors import UserError
from orchestrator.report.latex import SPECIAL, escape, latex_table
from tests.report.synthetic import runs_of, source_of, sweep_of

SWEEP = sweep_of()
TABLE = source_of(SWEEP, runs_of(SWEEP)).table
NAMES = ["robust_error_test", "robust_loss_gap", "average_flatness_xi0.5"]
NUMBER = r"-?\d+\.?\d*"


def body(text: str) -> list[list[str]]:
    """The cells of all rows, the heading first."""
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    return [re.split(r"(?<!\\)&", row) for row in rows]


def check(text: str) -> None:
    """Balanced braces, environments and dollars; as many cells in each row as the table has columns."""
    plain = re.sub(r"\\[{}$&%#_\\]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    depth = 0
    for char in plain:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert all(line.count("$") % 2 == 0 for line in plain.splitlines())
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text) == ["tabular"]
    columns = re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    assert columns and {len(row) for row in body(text)} == {len(columns[1])}
    assert not re.search(r"[^\\][#%]|[~^|<>]", plain.replace(r"\textasciitilde{}", ""))


def test_means_and_deviations_are_those_of_pandas() -> None:
    text = latex_table(TABLE, NAMES)
    check(text)
    groups = compared(TABLE).groupby(["method", "regularizer", "checkpoint"], sort=False)
    rows = body(text)[1:]
    assert len(rows) == len(groups) == 30
    method = ""
    for row in rows:
        cells = [cell.strip() for cell in row]
        method = cells[0] or method
        key = method.replace("\\", ""), cells[1].replace("\\", ""), {"last": "last", "early-stopped": "best"}[cells[2]]
        own = groups.get_group(key)
        assert cells[3] == str(len(own))
        for name, cell in zip(NAMES, cells[4:], strict=True):
            mean, deviation = map(float, re.findall(NUMBER, cell.replace(r"\mathbf", "")))
            factor, half = (100 if "error" in name else 1), 0.5 * 10 ** -len(cell.rpartition(".")[2].rstrip("$"))
            assert mean == pytest.approx(own[name].mean() * factor, abs=1.001 * half)
            assert deviation == pytest.approx(own[name].std(ddof=1) * factor, abs=1.001 * half)


def test_the_smallest_is_bold_with_its_ties() -> None:
    table = TABLE[TABLE["method"] == "at"].copy()
    table["robust_loss_gap"] = table["regularizer"].map(
        {"none": 0.5, "label_noise(rate=0.3)": 0.2, "weight_decay(value=0.005)": 0.2}
    ) + 1e-9 * np.arange(len(table))
    table["depth"] = 1.0 + np.arange(len(table))
    rows = body(latex_table(table, ["robust_loss_gap", "depth"]))[1:]
    assert [r"\mathbf" in row[-2] for row in rows] == [False, False, True, True, True, True]
    assert not any(r"\mathbf" in row[-1] for row in rows), "nobody knows whether less of it is better"


def test_all_equal_is_no_best() -> None:
    assert r"\mathbf" not in latex_table(TABLE.assign(robust_loss_gap=0.25), ["robust_loss_gap"])


def test_one_seed_has_no_deviation_and_missing_values_are_counted() -> None:
    table = TABLE[(TABLE["method"] == "at") & (TABLE["checkpoint"] == "last")].copy()
    table = table[(table["regularizer"] != "none") | (table["seed"] == 0)]
    decay = table["regularizer"].str.startswith("weight")
    table.loc[decay & (table["seed"] == 1), "robust_loss_gap"] = np.nan
    table.loc[table["regularizer"].str.startswith("label"), "robust_loss_gap"] = np.inf
    one, none, fewer = [row[-1].strip() for row in body(latex_table(table, ["robust_loss_gap"]))[1:]]
    assert r"\pm" not in one and re.fullmatch(rf"\${NUMBER}\$", one)
    assert none == "--"
    assert fewer.endswith(" (3)")


@pytest.mark.parametrize("special", SPECIAL)
def test_every_special_character_is_escaped(special: str) -> None:
    name = f"a{special}b"
    text = latex_table(TABLE.assign(method=name, regularizer=f"{name}\nc\x00"), ["robust_loss_gap"])
    check(text)
    assert escape(name) in text and "\x00" not in text


@pytest.mark.parametrize("name", ["[1ex]", "*"])
def test_a_name_is_no_argument_of_the_row_before(name: str) -> None:
    text = latex_table(TABLE.assign(method=name), ["robust_loss_gap"])
    assert f"{{}}{name}" in text and not re.search(rf"^\s*{re.escape(name)}", text, re.MULTILINE)


def test_escaping_is_undone_by_what_latex_prints() -> None:
    text = r"a\b_{c}~d^e<f>g|h&i%j$k#l"
    printed = escape(text)
    for char, command in SPECIAL.items():
        if len(command) > 2:
            printed = printed.replace(command, f"\0{ord(char)}\0")
    printed = re.sub(r"\\([&%$#_{}])", r"\1", printed)
    assert re.sub(r"\0(\d+)\0", lambda match: chr(int(match[1])), printed) == text


def test_settings_and_networks_are_columns_where_they_vary() -> None:
    last = TABLE[TABLE["checkpoint"] == "last"]
    assert body(latex_table(last))[0][:3] == ["Method ", " Regulariser ", " $n$ "]
    varied = last.assign(setting=np.where(last["seed"] < 2, "lr=0.1", ""))
    assert body(latex_table(varied))[0][:3] == ["Method ", " Regulariser ", " Setting "]
    cells = varied[varied["state"] == "finished"].groupby(["method", "regularizer", "setting"]).ngroups
    assert len(body(latex_table(varied))) == 1 + cells > 1 + 15


def test_the_usual_columns() -> None:
    heading = [cell.strip() for cell in body(latex_table(TABLE))[0]]
    assert r"Robust error, test (\%)" in heading and r"Average-case flatness, $\xi$ = 0.5 (nats)" in heading
    without = latex_table(TABLE.drop(columns=[name for name in TABLE if "flatness" in str(name)]))
    assert "flatness" not in without


def test_what_cannot_be_made() -> None:
    with pytest.raises(UserError, match="no trial has finished"):
        latex_table(source_of(SWEEP, []).table)
    with pytest.raises(UserError, match="did you mean 'robust_loss_gap'"):
        latex_table(TABLE, ["robust_los_gap"])
    with pytest.raises(UserError, match="no column of numbers 'method'"):
        latex_table(TABLE, ["method"])
    values = [name for name in TABLE if str(name).startswith(("robust", "clean", "average", "worst"))]
    with pytest.raises(UserError, match="none of the usual columns"):
        latex_table(TABLE.drop(columns=values))


def test_a_group_of_many_networks_keeps_its_order() -> None:
    runs = runs_of(SWEEP)
    table = pd.concat([source_of(SWEEP, runs).table.iloc[::-1], source_of(SWEEP, [replace(runs[0])]).table.iloc[:0]])
    methods = [row[0].strip() for row in body(latex_table(table, ["robust_loss_gap"]))[1:] if row[0].strip()]
    assert methods == [escape(name) for name in dict.fromkeys(table["method"])]
