"""Tables with little in them: every number that cannot be had has a sentence in its place, in every form of output."""

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.correlation import correlate, correlate_by
from orchestrator.analysis.formats import as_csv, as_latex, as_markdown
from orchestrator.analysis.render import render, render_groups
from orchestrator.analysis.results import NOT_ASKED
from orchestrator.analysis.rows import measure_columns
from orchestrator.errors import UserError
from tests.analysis.tables import MEASURE, TARGET, grid

TRAIN = "robust_loss_train"
FULL = ["at", "trades(beta=1)", "trades(beta=6)", "mart"], ["none", "awp"]


def ties(n, levels, seed):
    return np.random.default_rng(seed).integers(0, levels, size=n).astype(float)


def table(*shape, seeds=3, **columns):
    made = grid(*(shape or FULL), seeds=seeds)
    made[TRAIN] = np.random.default_rng(9).normal(size=len(made))
    return made.assign(**columns)


NO_VALUE = {
    "no trial": (lambda: table().iloc[:0], "0 usable networks"),
    "one trial": (lambda: table().iloc[:1], "1 usable network, and"),
    "two trials": (lambda: table().iloc[:2], "2 usable networks"),
    "constant measure": (lambda: table(**{MEASURE: 0.25}), f"{MEASURE} has one and the same value in all 24"),
    "constant target": (lambda: table(**{TARGET: 0.0}), f"{TARGET} has one and the same value in all 24"),
    "measure all NaN": (lambda: table(**{MEASURE: np.nan}), "0 usable networks"),
    "all NaN": (lambda: table(**{MEASURE: np.nan, TARGET: np.nan, TRAIN: np.nan}), "0 usable networks"),
    "all losses infinite": (lambda: table(**{TARGET: np.inf}), "0 usable networks"),
    "nothing in common": (
        lambda: table().assign(
            **{MEASURE: lambda t: t[MEASURE].where(t["seed"] == 0), TARGET: lambda t: t[TARGET].where(t["seed"] == 1)}
        ),
        "0 usable networks",
    ),
}
WITH_VALUE = {
    "one method": lambda: table(["at"], ["none", "awp", "swa"]),
    "one method with variants": lambda: table(["at", "at(steps=1)", "at(steps=3)"]),
    "one seed": lambda: table(seeds=1),
    "one cell": lambda: table(["at"], seeds=6),
    "two cells": lambda: table(["at", "mart"], seeds=3),
    "three trials": lambda: table(["at", "mart", "trades"], seeds=1),
    "two values": lambda: table(**{MEASURE: ties(24, 2, 1), TARGET: ties(24, 2, 2)}),
    "ties almost everywhere": lambda: table(**{MEASURE: np.arange(24) == 3.0, TARGET: np.arange(24) == 7.0}).astype(
        {MEASURE: float, TARGET: float}
    ),
    "one infinite loss": lambda: table().assign(**{TARGET: lambda t: t[TARGET].where(t.index != 5, -np.inf)}),
    "measure is the target": lambda: table().assign(**{MEASURE: lambda t: t[TARGET]}),
    "training loss is the measure": lambda: table().assign(**{TRAIN: lambda t: t[MEASURE]}),
    "training loss constant": lambda: table(**{TRAIN: 1.0}),
    "huge and tiny": lambda: table(**{MEASURE: 5e307 * ties(24, 3, 1), TARGET: 5e-324 * ties(24, 3, 2)}),
    "no labels": lambda: table(["at", "mart", "trades"]).assign(regularizer=None, setting=np.nan),
    "names of rich and LaTeX": lambda: table(["[red]a_b[/]", "$x^2$ & {c}%", "#~\\"]),
}


def everything_printed(found, groups):
    """In all forms, so that none of them fails."""
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render(found))
    console.print(render_groups("seed", groups))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    json.dumps(found.as_dict(), allow_nan=False)
    results = {"": found, **{f"seed = {name}": result for name, result in groups.items()}}
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert len(rows) == sum(len(result.pairs) for result in results.values())
    for row in rows:
        assert not [value for value in row.values() if value in ("nan", "inf", "-inf")]
    as_markdown(results), as_latex(results)
    return text


def numbers_have_reasons(pair):
    """A number in its range, or a sentence why there is none."""
    for item in (pair.pearson, pair.spearman, pair.kendall, pair.partial_pearson, pair.partial_spearman):
        for number in (item.value, item.low, item.high):
            assert number is None or -1 <= number <= 1
        assert item.reason or (item.value is not None and item.low <= item.value <= item.high)
    for number, item in (
        (pair.p.value, pair.p),
        (pair.granulated.psi, pair.granulated),
        (pair.sign_error.maximum, pair.sign_error),
        (pair.sensitivity.low, pair.sensitivity),
    ):
        assert (number is None) == bool(item.reason)
        assert number is None or math.isfinite(number)
        assert item.reason != NOT_ASKED


@pytest.mark.parametrize("name", NO_VALUE)
def test_no_value_but_a_sentence(name):
    make, phrase = NO_VALUE[name]
    found = correlate(make(), [MEASURE], [TARGET], resamples=50)
    (pair,) = found.pairs
    assert pair.kendall.value is None and pair.p.value is None and pair.p.holm is None
    assert phrase in found.answer
    numbers_have_reasons(pair)
    text = everything_printed(found, correlate_by(make(), "seed", [MEASURE], [TARGET], resamples=50))
    assert "No answer on" in text


@pytest.mark.parametrize("name", WITH_VALUE)
def test_what_there_is_has_a_value(name):
    made = WITH_VALUE[name]()
    found = correlate(made, [MEASURE], [TARGET, TRAIN], resamples=50)
    pair = found.pairs[0]
    assert pair.kendall.value is not None
    for each in found.pairs:
        numbers_have_reasons(each)
    text = everything_printed(found, correlate_by(made, "seed", [MEASURE], [TARGET], resamples=50))
    assert f"{pair.kendall.value:.2f}" in text


def test_few_cells_are_said():
    notes = " ".join(correlate(table(["at", "mart", "trades", "standard"]), [MEASURE], [TARGET], resamples=50).notes)
    assert "With few cells (4) the intervals are only roughly right" in notes
    assert "no p-value can be below 0.083" in notes


def test_what_many_pairs_lack_is_said_once():
    empty = {f"average_flatness_xi{number}": np.nan for number in range(1, 7)}
    notes = correlate(table(**empty), list(empty), [TARGET], resamples=50).notes
    (line,) = [note for note in notes if "no value" in note]
    assert line.endswith("; and 2 more: no value: 0 usable networks, and at least 3 are needed.")


def test_a_long_list_of_networks_is_cut_on_the_screen_alone():
    found = correlate(table(**{MEASURE: np.nan}), [MEASURE], [TARGET], resamples=50)
    assert len(found.left_out) == 24
    text = everything_printed(found, {})
    assert "24 networks" in text and "and 18 more" in text


@pytest.mark.parametrize(
    ("by", "message"),
    [("metod", "no column 'metod': did you mean 'method'?"), (MEASURE, "has 60 different values; at most 50 groups")],
)
def test_groups_that_are_none(by, message):
    with pytest.raises(UserError, match="the") as found:
        correlate_by(table(seeds=12).iloc[:60], by, resamples=5)
    assert message in str(found.value)


def test_rows_without_a_value_are_a_group():
    made = table().assign(note=lambda t: t["method"].where(t["seed"] > 0))
    assert set(correlate_by(made, "note", [MEASURE], [TARGET], resamples=5)) == {"none", *made["method"]}


def test_measures_are_what_was_measured_and_is_no_outcome():
    names = [
        "robust_loss_gap_se", "robust_loss_train", "clean_error_test", "autoattack_error_test",
        "worst_flatness_xi0.003", "average_flatness_xi0.5_se", "average_flatness_xi0.5_error_train",
        "hessian_trace", "hessian_trace_se", "wci",
        "margin_p10_clean_train", "cost_train_seconds", "train_loss", "validation_robust_error", "attempt",
    ]  # fmt: skip
    made = table(**{name: np.arange(24.0) for name in names}, epoch=30, flags="", error=np.nan, run_id="r")
    assert measure_columns(made) == [
        MEASURE, "worst_flatness_xi0.003", "average_flatness_xi0.5_error_train",
        "hessian_trace", "wci", "margin_p10_clean_train",
    ]  # fmt: skip
    targets = correlate(made, [MEASURE], resamples=5).targets
    assert targets == (TARGET, "autoattack_error_test")
    assert correlate(made, resamples=5).pairs[0].measure == MEASURE, "the headline is about flatness"
