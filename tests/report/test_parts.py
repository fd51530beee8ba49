"""What the page is put together from: numbers, words, journals, addresses."""

import doctest
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.addresses import public
from orchestrator.analysis.columns import COST, OTHER, column_of, words
from orchestrator.analysis.correlation import Coefficient, Pair, measure_columns
from orchestrator.analysis.figures import COLOURS
from orchestrator.report import amounts, page
from orchestrator.report.cells import costs, flags, matrix
from orchestrator.report.files import training_curves
from orchestrator.report.headline import readable
from orchestrator.report.plots import DARK_COLOURS, curves
from orchestrator.report.provenance import facts, run_base, shown_store
from orchestrator.spec.measures import AverageFlatness
from orchestrator.spec.sweep import Sweep
from tests.report.synthetic import runs_of, source_of, sweep_of
from workers.journal import Journal, Record
from workers.storage import Folder

XI = "\N{GREEK SMALL LETTER XI}"


def test_examples_in_docstrings() -> None:
    found = doctest.testmod(amounts)
    assert found.attempted >= 2 and found.failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (-0.5, "-0.500"), (99.96, "100.0"), (1e-7, "1.00e-07"), (2.5e7, "2.50e+07"),
        (math.nan, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert amounts.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (3599.6, "1 h 0 min"), (86399.9, "1 d 0 h"), (None, "-")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert amounts.duration(seconds) == text


def test_intervals_stay_on_one_line() -> None:
    assert amounts.unbroken("tau 0.7 [0.1, 0.9].").split(" ") == ["tau", "0.7\xa0[0.1,\xa00.9]."]
    assert amounts.signed(-0.251) == "\N{MINUS SIGN}0.25"


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("robust_loss_gap", "robust loss gap"),
        ("robust_error_test", "robust error (test)"),
        ("average_flatness_xi0.5", f"average-case flatness ({XI} = 0.5)"),
        ("worst_flatness_xi0.003_train", f"worst-case flatness ({XI} = 0.003, train images)"),
        ("hessian_trace", "hessian_trace"),
    ],
)
def test_words(column: str, text: str) -> None:
    assert words(column) == text


def test_a_name_inside_another_name_stays() -> None:
    pair = Pair("robust_loss_test", "robust_loss_test_x", 3, 3, *[Coefficient(0.5, 0.1, 0.9)] * 3)
    assert readable(pair.sentence(), pair) == pair.sentence().replace(
        "goes with robust_loss_test:", "goes with robust loss (test):"
    )


def test_columns_of_costs_and_errors_are_described() -> None:
    cost = column_of("cost_hessian_trace_seconds")
    assert (cost.group, cost.unit) == (COST, "s") and "hessian_trace" in cost.label
    assert column_of("cost_robustness_passes").unit == "passes"
    error = column_of("average_flatness_xi0.5_se", AverageFlatness())
    assert (error.unit, error.group) == ("nats", "average_flatness") and error.meaning.startswith("Standard error of")
    assert column_of("anything").group == OTHER


def test_what_explains_is_no_loss_and_no_error() -> None:
    sweep = sweep_of()
    table = source_of(sweep, runs_of(sweep)).table
    found = measure_columns(table)
    assert found == ["average_flatness_xi0.5", "worst_flatness_xi0.003", "worst_flatness_xi0.00075"]
    assert measure_columns(table.drop(columns=found[0])) == found[1:]


def test_the_grid_with_holes_and_settings() -> None:
    made = Sweep.model_validate(
        {
            "name": "x",
            "training": {"epochs": [3, 4]},
            "grid": {
                "methods": ["at", "mart"],
                "regularizers": ["none", "mixup"],
                "seeds": [1, 0],
                "exclude": [{"method": "mart", "regularizer": "mixup"}],
            },
        }
    )
    found = matrix(source_of(made, [], training={}).table)
    assert found.with_settings and found.states == ["missing"]
    assert [(row.method, row.setting) for row in found.rows] == [
        ("at", "epochs=3"), ("mart", "epochs=3"), ("at", "epochs=4"), ("mart", "epochs=4"),
    ]  # fmt: skip
    cell = found.rows[0].cells[1]
    assert cell is not None and cell[0].text == "2 missing: seeds 0, 1"
    assert found.rows[1].cells[1] is None


def test_costs_by_method_are_sums() -> None:
    table = pd.DataFrame(
        {
            "trial_id": list("abcd"), "checkpoint": "last", "method": ["at", "at", "mart", "none yet"],
            "cost_train_seconds": [10.0, 20.0, 5.0, None], "cost_robustness_seconds": [1.0, None, None, None],
            "cost_robustness_passes": [9e9, 9e9, 9e9, 9e9],
        }
    )  # fmt: skip
    found = costs(table)
    assert found is not None and found.names == ("train", "robustness")
    assert [(row.method, row.trials, row.parts, row.total, row.per_trial) for row in found.rows] == [
        ("at", 2, (30.0, 1.0), 31.0, 15.5),
        ("mart", 1, (5.0, None), 5.0, 5.0),
    ]
    assert (found.total.total, found.largest) == (36.0, 31.0)
    assert costs(table.assign(cost_train_seconds=None, cost_robustness_seconds=None)) is None
    assert costs(table.assign(cost_repeated_seconds=0.0)) == found, "nothing was repeated"
    again = costs(table.assign(cost_repeated_seconds=[4.0, 0.0, 0.0, None]))
    assert again is not None and again.names == ("train", "repeated", "robustness")
    assert [(row.parts, row.total, again.training(row)) for row in again.rows] == [
        ((30.0, 4.0, 1.0), 35.0, 34.0), ((5.0, 0.0, None), 5.0, 5.0),
    ]  # fmt: skip
    assert column_of("cost_repeated_seconds").label == "Repeated training"


def test_flags_are_counted_by_measure_and_text() -> None:
    table = pd.DataFrame(
        {
            "flags": ["a: x; y | b: z", "a: x; y", "", None], "method": "at", "regularizer": "none", "setting": "",
            "seed": [0, 1, 2, 3], "checkpoint": ["last", "best", "last", "last"], "run_id": "r",
        }
    )  # fmt: skip
    found = flags(table)
    assert [(flag.measure, flag.text, len(flag.networks)) for flag in found] == [("a", "x; y", 2), ("b", "z", 1)]
    assert found[0].networks[1].label == "at | none | seed 1 | best"


def test_curves_of_training_come_from_the_journals(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    values = [Record("metric", "train/loss", value=2.0 / step, step=step) for step in (1, 2, 3)]
    other = [Record("metric", "robust_loss_gap", value=1.0, step=3), Record("tag", "train/loss", text="no value")]
    again = [Record("metric", "train/loss", value=9.0, step=1)]
    Journal(folder / "a").add([*values, *other, Record("metric", "validation/robust_error", value=0.5, step=2)])
    content = (folder / "a").read("journal.jsonl")
    # what a crash leaves: an epoch again, and a line cut short
    Journal(folder / "b").add(again)
    (folder / "a").write(
        "journal.jsonl", content + (folder / "b").read("journal.jsonl") + b'{"kind": "metric", "train/'
    )
    found = training_curves(folder, ["a", "absent"])
    assert found == {"a": {"train_loss": [(1, 2.0), (2, 1.0), (3, 2 / 3)], "validation_robust_error": [(2, 0.5)]}}
    assert (folder / "a").read("journal.jsonl").endswith(b"train/"), "reading changes nothing"


def test_thinned_curves_keep_both_ends_and_the_early_stopped_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.plots.CURVE_VALUES", 500)
    sweep = sweep_of()
    source = source_of(sweep, runs_of(sweep))
    found = curves(source.table, source.training)
    series = found["series"]["validation_robust_error"]
    assert series["thinned"]
    for axis, values, (epoch, _) in series["of"].values():
        epochs = found["axes"][axis]
        assert epochs[0] == 1 and epochs[-1] == 60 and epoch in epochs and len(values) == len(epochs) < 20


def test_addresses_without_passwords() -> None:
    assert public("http://user:secret@host:5000/x") == "http://host:5000/x"
    assert public("sqlite:////home/me/runs/mlflow.db") == "sqlite:////home/me/runs/mlflow.db"
    assert run_base([("https://u:p@host/base/", "7")]) == "https://host/base/#/experiments/7/runs/"
    assert run_base([("sqlite:///x.db", "7")]) is None and run_base([("http://host", None)]) is None
    assert run_base([("http://host", "7"), ("http://host/", "8")]) == "http://host/#/runs/"
    assert run_base([("http://host", "7"), ("http://other", "7")]) is None


def test_a_page_tells_no_folder_of_this_machine() -> None:
    assert shown_store("sqlite:////home/me/runs/mlflow.db", "/home/me/runs") == "sqlite: <storage>/mlflow.db"
    assert shown_store("sqlite:////home/me/mlflow.db", "/home/me/runs") == "sqlite: mlflow.db"
    assert shown_store("http://user:secret@host:5000", "/home/me/runs") == "http://host:5000"


def test_facts_count_trials() -> None:
    sweep = sweep_of()
    found = {fact.label: fact for fact in facts(runs_of(sweep, broken=False))}
    assert found["Hosts, numbered"].values == (("host 1", 20), ("host 2", 20), ("host 3", 20))
    assert found["Hosts, numbered"].trials == 60 and "node-" not in str(found)
    assert "Package stripes" not in found
    with_package = runs_of(sweep)
    with_package[0].tags["stripes_version"] = "1.2"
    assert {fact.label: fact.values for fact in facts(with_package)}["Package stripes"] == (("1.2", 1),)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_stand_out_from_their_ground(scheme: str) -> None:
    style = (Path(page.__file__).parent / "templates" / "base.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[0 if scheme == "light" else 1]))
    for text in ("text", "soft", "accent", "good", "bad", "warm"):
        for ground in ("page", "surface", "sunken"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["edge"], colours["surface"]) >= 3, "edges of menus"
    # of light marks, yellow and sky blue alone are fainter: shapes and the legend tell them apart too
    marks = COLOURS if scheme == "light" else DARK_COLOURS
    assert len(set(marks)) == len(COLOURS) == len(DARK_COLOURS)
    assert [mark for mark in marks if contrast(mark, colours["surface"]) < 2.2] == []
