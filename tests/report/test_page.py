"""The page as a file: complete, self-contained, escaped, small, and with a sentence whatever the sweep came to."""

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, one_per_trial, trial_table
from orchestrator.report import headline, page
from orchestrator.report.files import LANDSCAPE_BYTES, Landscape, landscapes
from orchestrator.report.page import Source, html
from tests.report.parsed import Element, parse
from tests.report.synthetic import METHODS, failed, runs_of, source_of, sweep_of
from workers.storage import Folder

SWEEP = sweep_of()
RUNS = runs_of(SWEEP)
HOSTILE = "</script><img src=x onerror=\"alert('1')\">&amp;{{7*7}}"


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of(SWEEP, RUNS)


@pytest.fixture(scope="module")
def parsed(source: Source) -> Element:
    return parse(html(source))


def data_of(parsed: Element) -> dict[str, Any]:
    return json.loads("".join(parsed.one(id="data")._text()))


def section(parsed: Element, name: str) -> Element:
    return parsed.one("section", id=name)


def rows_of(table: Element) -> list[list[str]]:
    return [[cell.text for cell in row.children if cell.tag in {"th", "td"}] for row in table.all("tr")]


# a page that can be used


def test_ids_are_unique_and_every_reference_has_its_target(parsed: Element) -> None:
    ids = Counter(element.attributes["id"] for element in parsed.all() if "id" in element.attributes)
    assert set(ids.values()) == {1}
    targets = [link.attributes["href"] for link in parsed.all("a") if link.attributes["href"].startswith("#")]
    targets += [f"#{element.attributes['aria-labelledby']}" for element in parsed.all("section")]
    assert targets and {target.removeprefix("#") for target in targets} <= set(ids)


def test_every_table_has_a_caption_and_every_heading_a_scope(parsed: Element) -> None:
    tables = parsed.all("table")
    assert len(tables) > 8
    for table in tables:
        assert len(table.all("caption")) == 1 and table.one("caption").text
        assert all(cell.attributes.get("scope") in {"col", "row"} for cell in table.all("th"))
        spans = {len([cell for cell in row.children if cell.tag in {"th", "td"}]) for row in table.all("tr")}
        assert len(spans) == 1, table.one("caption").text


def test_what_scrolls_can_be_reached_and_has_a_name(parsed: Element) -> None:
    for element in [*parsed.all(class_="scroll"), *parsed.all("pre")]:
        assert element.attributes["tabindex"] == "0" and element.attributes["aria-label"]
    for select in parsed.all("select"):
        assert select.parent is not None and select.parent.tag == "label" and select.parent.text
    assert all(image.attributes["alt"] for image in parsed.all("img"))
    assert parsed.one("html").attributes["lang"] == "en"
    assert [element.text for element in parsed.all("h1")] == ["digits-flatness"]


def test_sections_stand_in_order(parsed: Element) -> None:
    names = [element.attributes["id"] for element in parsed.all("section")]
    assert names == [
        "answer", "scatter", "correlations", "training", "cells", "failures", "costs", "flags", "provenance", "columns",
    ]  # fmt: skip
    assert [link.attributes["href"] for link in parsed.one("nav").all("a")] == [f"#{name}" for name in names]


# self-contained and safe


def test_nothing_is_loaded(parsed: Element, source: Source) -> None:
    for element in parsed.all():
        assert element.tag not in {"link", "iframe", "object", "embed", "base"}
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{element.tag} {name}"
            if name in {"src", "href", "action", "srcset", "poster"} and not value.startswith(("#", "data:")):
                assert element.tag == "a" and value.startswith(str(source.run_base))
    style = parsed.one("style").text
    assert "url(" not in style and "@import" not in style


def test_the_policy_allows_this_script_and_no_other(source: Source) -> None:
    text = html(source)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = parse(text).one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    found = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{found}'" in policy and "default-src 'none'" in policy
    assert [rule for rule in policy.split("; ") if "http" in rule or "*" in rule] == []


def hostile_source() -> Source:
    made = source_of(SWEEP, RUNS)
    table = made.table.copy()
    for name in ("method", "regularizer", "setting"):
        table[name] = HOSTILE + name
    table.loc[table["state"] == "failed", ["error_class", "error"]] = HOSTILE
    table.loc[::3, "flags"] = f"{HOSTILE}: {HOSTILE}"
    table["run_id"] = HOSTILE
    facts = [replace(fact, label=HOSTILE, values=((HOSTILE, 3), ("b", 1))) for fact in made.facts]
    texts: dict[str, Any] = {"name": HOSTILE, "texts": {HOSTILE: HOSTILE}, "stores": [HOSTILE], "mixed": [HOSTILE]}
    figures = [Landscape(HOSTILE, "data:image/svg+xml;base64,")]
    return replace(made, table=table, facts=facts, landscapes=figures, landscapes_left=[HOSTILE], **texts)


def test_hostile_names_are_only_text() -> None:
    parsed = parse(html(hostile_source()))
    assert len(parsed.all("script")) == 2
    assert [image.attributes["src"] for image in parsed.all("img")] == ["data:image/svg+xml;base64,"]
    assert parsed.one("h1").text == HOSTILE
    for name in ("cells", "failures", "costs", "flags", "provenance", "landscapes"):
        assert HOSTILE in section(parsed, name).text
    assert HOSTILE + "method" in data_of(parsed)["networks"]["columns"]["method"]["levels"]
    assert parsed.one("pre").text == HOSTILE


def test_addresses_of_runs(source: Source) -> None:
    link = section(parse(html(source)), "failures").all("a")[0]
    run_ids = set(source.table.loc[source.table["state"] == "failed", "run_id"])
    assert link.attributes["href"].removeprefix(str(source.run_base)) in run_ids
    without = parse(html(replace(source, run_base=None)))
    assert not section(without, "failures").all("a")
    assert run_ids <= set(section(without, "failures").text.split())
    assert data_of(without)["runBase"] is None


# size


def large_source() -> Source:
    """1,000 trials of 200 epochs, with as much of everything as a sweep records."""
    regularizers = ["none", {"name": "label_noise", "rate": [k / 20 for k in range(1, 10)]}]
    training = {"epochs": 60, "early_stopping": {}, "keep_every": 2}
    grid = {"methods": METHODS, "regularizers": regularizers, "seeds": list(range(20))}
    sweep = sweep_of(grid=grid, training=training)
    runs = runs_of(sweep)
    random = np.random.default_rng(1)
    points = [(epoch, float(value)) for epoch, value in enumerate(random.random(200), 1)]
    names = ("train_loss", "train_error", "validation_robust_loss", "validation_robust_error")
    curves = {run.trial_id: dict.fromkeys(names, points) for run in runs}
    figures = [Landscape("landscape", "data:image/svg+xml;base64," + "A" * LANDSCAPE_BYTES)]
    assert len(sweep.trials()) == 1000
    return source_of(sweep, runs, training=curves, landscapes=figures)


def test_a_thousand_trials_fit_in_6_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # the number of resamples changes no size, and takes most of the time
    monkeypatch.setattr(headline, "correlate", partial(correlate, resamples=20))
    text = html(large_source())
    assert 2e6 < len(text.encode()) < 6e6
    curves = data_of(parse(text))["curves"]["series"]
    assert curves["train_loss"]["thinned"]
    assert all(len(series["of"]) > 900 for series in curves.values())


# what it says


def test_the_answer_is_that_of_correlate(parsed: Element, source: Source) -> None:
    expected = correlate(compared(source.table))
    sentence = parsed.one(class_="sentence").text.replace("\N{NO-BREAK SPACE}", " ")
    words = expected.answer.replace("robust_loss_gap", "robust loss gap")
    assert sentence == words.replace(
        "average_flatness_xi0.5", "average-case flatness (\N{GREEK SMALL LETTER XI} = 0.5)"
    )
    cells = rows_of(section(parsed, "correlations").one(class_="tau"))
    pairs = {(pair.measure, pair.target): pair.kendall for pair in expected.pairs}
    first = pairs["average_flatness_xi0.5", "robust_loss_gap"]
    assert cells[1][1] == f"{first.value:.2f} [{first.low:.2f}, {first.high:.2f}]"
    assert (len(cells), len(cells[0])) == (4, 5)


def test_a_cell_whose_interval_contains_0_is_not_filled(source: Source) -> None:
    table = source.table.copy()
    table["robust_error_test"] = np.random.default_rng(0).random(len(table))
    found = section(parse(html(replace(source, table=table))), "correlations").one(class_="tau")
    link = found.one("a", **{"data-x": "average_flatness_xi0.5", "data-y": "robust_error_test"})
    assert "open" in link.attributes["class"] and "contains 0" in link.text
    clear = found.one("a", **{"data-x": "average_flatness_xi0.5", "data-y": "robust_loss_gap"})
    assert "clear" in clear.attributes["class"]


def test_the_data_are_those_of_the_table(parsed: Element, source: Source) -> None:
    networks = compared(source.table)
    columns = data_of(parsed)["networks"]["columns"]
    np.testing.assert_allclose(columns["robust_loss_gap"]["values"], networks["robust_loss_gap"], rtol=1e-5)
    assert columns["robust_loss_gap"]["unit"] == "nats"
    assert "robust_loss_gap_se" in columns
    method = columns["method"]
    assert [method["levels"][code] for code in method["codes"]] == list(networks["method"])
    offered = [name for _, names in data_of(parsed)["choices"]["numbers"] for name in names]
    assert not [name for name in offered if name.endswith("_se")]


def test_curves_hold_kept_epochs_the_end_and_the_early_stopped_network(parsed: Element, source: Source) -> None:
    curves = data_of(parsed)["curves"]
    series = curves["series"]["average_flatness_xi0.5"]
    place, (axis, values, best) = next(iter(series["of"].items()))
    run_id = curves["trials"][int(place)]["run_id"]
    rows = source.table[source.table["run_id"] == run_id].sort_values("epoch")
    assert curves["axes"][axis] == list(rows["epoch"])
    np.testing.assert_allclose(values, rows["average_flatness_xi0.5"], rtol=1e-5)
    own = rows[rows["checkpoint"] == "best"].iloc[0]
    assert best == [own["epoch"], pytest.approx(own["average_flatness_xi0.5"], rel=1e-5)]
    assert len(curves["series"]["train_loss"]["of"]) == (source.table["checkpoint"] == "last").sum() - 7


def test_the_matrix_has_every_seed(parsed: Element, source: Source) -> None:
    rows = rows_of(section(parsed, "cells").one(class_="grid"))
    assert rows[0] == ["Method", "none", "label_noise(rate=0.3)", "weight_decay(value=0.005)"]
    text = " ".join(cell for row in rows[1:] for cell in row[1:])
    counts = Counter()
    for number, state in re.findall(r"(\d+) (finished|failed|running|missing):", text):
        counts[state] += int(number)
    assert counts == Counter(one_per_trial(source.table)["state"])
    assert "3 finished: seeds 0, 2, 3; 1 failed: seed 1" in rows[1][2]


def test_failures_costs_flags_and_sources(parsed: Element, source: Source) -> None:
    failures = rows_of(section(parsed, "failures").one("table"))
    assert [(row[0][2:], row[1]) for row in failures[1:]] == [("diverged", "2"), ("out_of_memory", "1")]
    assert (
        "the loss became nan in epoch 12" in failures[1][2] and "at | label_noise(rate=0.3) | seed 1" in failures[1][3]
    )
    trials = one_per_trial(source.table)
    hours = trials[[name for name in trials if str(name).startswith("cost_")]].sum().sum() / 3600
    costs = rows_of(section(parsed, "costs").one("table"))
    assert costs[-1][-2] == f"{int(hours)} h {int(hours % 1 * 60)} min"
    assert len(costs) == 2 + 5
    flagged = (source.table["flags"] != "").sum()
    assert rows_of(section(parsed, "flags").one("table"))[1][2] == str(flagged)
    provenance = section(parsed, "provenance").text
    for text in ("flatsweep 0.1.0", "Ray 2.60.0", "MLflow 3.17.0", "41d6" * 10, "9f2c" * 16, "host 2 (19 trials)"):
        assert text in provenance
    assert "methods: [at, mart]" in provenance


def test_the_dictionary_has_every_column(parsed: Element, source: Source) -> None:
    tables = section(parsed, "columns").all(class_="dictionary")
    found = {row[0]: row[1:] for table in tables for row in rows_of(table)[1:]}
    assert set(found) == set(source.table.columns)
    assert all(meaning for _, meaning in found.values())
    assert found["robust_error_gap"][0] == "fraction" and found["average_flatness_xi0.5_se"][0] == "nats"
    assert "its standard error over draws" in section(parsed, "columns").text
    assert "SCIENCE" not in section(parsed, "columns").text


def test_landscapes_are_inside_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("landscape.svg", "landscape_2d-0123456789abcdef.svg", "landscape_2d-0123456789abcdef-best.svg"):
        (tmp_path / name).write_bytes(b"<svg>" + b"x" * 3000 + b"</svg>")
    (tmp_path / "other.svg").write_bytes(b"<svg/>")
    monkeypatch.setattr("orchestrator.report.files.LANDSCAPE_BYTES", 9000)
    shown, left = landscapes(Folder(str(tmp_path)))
    assert [figure.name for figure in shown] == ["landscape", "landscape_2d-0123456789abcdef-best"]
    assert left == ["landscape_2d-0123456789abcdef.svg"]
    parsed = parse(html(source_of(SWEEP, RUNS, landscapes=shown, landscapes_left=left)))
    images = section(parsed, "landscapes").all("img")
    content = base64.b64decode(images[0].attributes["src"].removeprefix("data:image/svg+xml;base64,"))
    assert content == (tmp_path / "landscape.svg").read_bytes()
    assert left[0] in section(parsed, "landscapes").text
    assert landscapes(Folder(str(tmp_path / "absent"))) == ([], [])


# whatever the sweep came to

SMALL = sweep_of(grid={"methods": ["at"], "seeds": [0, 1, 2]})
DONE = runs_of(SMALL, broken=False)


def nan_everywhere() -> pd.DataFrame:
    table = trial_table(SMALL, DONE)
    numbers = [name for name in table.select_dtypes("number") if name not in {"seed", "epoch", "attempt"}]
    return table.assign(**dict.fromkeys(numbers, np.nan))


CASES = {
    "nothing has run": (trial_table(SMALL, []), "no trial has finished (3 missing)"),
    "all failed": (
        trial_table(SMALL, [failed(run, "diverged", "boom") for run in DONE]),
        "no trial has finished (3 failed)",
    ),
    "one trial": (trial_table(SMALL, DONE[:1]), "2 usable networks, and at least 3 are needed"),
    "one cell": (trial_table(SMALL, DONE), "without an interval: all networks are in one cell"),
    "NaN everywhere": (nan_everywhere(), "0 usable networks, and at least 3 are needed"),
    "infinite": (trial_table(SMALL, DONE).assign(robust_loss_gap=np.inf), "0 usable networks"),
    "no flatness": (
        trial_table(SMALL, DONE).drop(columns=[n for n in trial_table(SMALL, DONE) if "flatness" in n]),
        "no value of flatness",
    ),
    "measured otherwise": (
        trial_table(SMALL, [replace(run, evaluation_id="another") for run in DONE]),
        "no trial has finished (3 measured otherwise)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_table_gives_a_page_with_a_sentence(name: str) -> None:
    table, phrase = CASES[name]
    parsed = parse(html(source_of(SMALL, [], table=table, training={})))
    assert phrase in parsed.one(class_="sentence").text
    assert data_of(parsed)["networks"]["size"] == len(compared(table))


def test_the_page_is_the_same_for_the_same_source(source: Source) -> None:
    assert html(source) == html(source)


def test_every_template_is_used() -> None:
    folder = Path(page.__file__).parent / "templates"
    named = {*page.STYLES, *page.SCRIPTS, "page.html"}
    for file in folder.glob("*.html"):
        named |= set(re.findall(r'{% (?:include|import) "(\S+)"', file.read_text()))
    assert {file.name for file in folder.iterdir()} == named
