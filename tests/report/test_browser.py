"""The page in a real browser: it draws, answers to pointer, keyboard and legend, and fits every screen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from orchestrator.analysis.table import compared
from orchestrator.report.page import Source, html
from tests.report.browser import MISSING, Browser, browsing, executable
from tests.report.synthetic import runs_of, source_of, sweep_of
from tests.report.test_page import CASES, HOSTILE, SMALL, hostile_source

pytestmark = pytest.mark.skipif(executable() is None, reason=MISSING)

SWEEP = sweep_of()
X, Y = "average_flatness_xi0.5", "robust_loss_gap"


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of(SWEEP, runs_of(SWEEP))


@pytest.fixture(scope="module")
def file(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html(source), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, file: Path) -> Browser:
    browser.screen(1280, 900)
    browser.open(file)
    return browser


def choose(browser: Browser, plot: str, **fields: str | bool) -> None:
    """Sets menus and boxes of a plot, as a user does."""
    browser.js(f"""(() => {{
        const form = document.querySelector('#{plot} form');
        for (const [name, value] of Object.entries({json.dumps(fields)})) {{
            if (typeof value === 'boolean') form.elements[name].checked = value;
            else form.elements[name].value = value;
        }}
        form.dispatchEvent(new Event('input'));
    }})()""")


def texts(browser: Browser, selector: str) -> list[str]:
    found = browser.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")
    return [" ".join(text.split()) for text in found]


def text(browser: Browser, selector: str) -> str:
    (found,) = texts(browser, selector)
    return found


def count(browser: Browser, selector: str) -> int:
    return int(browser.js(f"document.querySelectorAll({json.dumps(selector)}).length"))


def centre(browser: Browser, expression: str) -> tuple[float, float]:
    """Of an element, scrolled into the window."""
    x, y = browser.js(f"""(() => {{
        const one = {expression};
        one.scrollIntoView({{behavior: 'instant', block: 'center'}});
        const box = one.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }})()""")
    return x, y


def marks(plot: str = "scatter-plot") -> str:
    return f"#{plot} .marks .mark"


# it loads


def test_it_loads_without_a_complaint_and_asks_for_nothing(opened: Browser, file: Path, source: Source) -> None:
    assert opened.problems == []
    assert opened.requests == [file.as_uri()]
    assert count(opened, marks()) == len(compared(source.table)) == 106
    assert count(opened, "#curves-plot .curve") == 53


@pytest.mark.parametrize("name", CASES)
def test_odd_tables_load_without_a_complaint(browser: Browser, name: str, tmp_path: Path) -> None:
    table, _ = CASES[name]
    path = tmp_path / "report.html"
    path.write_text(html(source_of(SMALL, [], table=table, training={})), encoding="utf-8")
    browser.screen(390, 844)
    browser.open(path)
    assert browser.problems == []


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(hostile_source()), encoding="utf-8")
    browser.screen(1280, 900)
    browser.open(path)
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.js(f"document.querySelector({json.dumps(marks())}).focus()")
    browser.frames()
    assert HOSTILE in text(browser, "#scatter-plot .tip b")
    assert count(browser, "script") == 2 and count(browser, "img") == 1
    # the empty figure that stands for a landscape is the one thing to complain about
    assert [problem for problem in browser.problems if "data:image" not in problem] == []
    assert browser.requests == [path.as_uri()]


def test_the_policy_stops_a_script_that_got_in(opened: Browser) -> None:
    opened.js("""(() => {
        const script = document.createElement('script');
        script.textContent = 'globalThis.gotIn = true';
        document.body.append(script);
    })()""")
    opened.frames()
    assert opened.js("typeof globalThis.gotIn") == "undefined"
    assert any("Content Security Policy" in problem for problem in opened.problems)


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_it_fits_the_screen(browser: Browser, file: Path, width: int) -> None:
    browser.screen(width, 800)
    browser.open(file)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelector('#scatter-plot svg').getBoundingClientRect().right") <= width


def test_it_turns_dark(browser: Browser, file: Path) -> None:
    found = []
    for dark in (False, True):
        browser.screen(1280, 900, dark)
        browser.open(file)
        ground = "getComputedStyle(document.body).backgroundColor"
        mark = f"getComputedStyle(document.querySelector({json.dumps(marks() + ':not(.hollow)')})).fill"
        found.append((browser.js(ground), browser.js(mark)))
    (light, light_mark), (dark_ground, dark_mark) = found
    assert sum(map(int, light[4:-1].split(", "))) > 600 > 100 > sum(map(int, dark_ground[4:-1].split(", ")))
    assert light_mark != dark_mark


# pointer and keyboard


def test_pointing_at_a_mark_shows_its_trial_and_run(opened: Browser, source: Source) -> None:
    rows = compared(source.table).sort_values(X)
    last = rows.iloc[-1]
    assert opened.js("document.querySelector('#scatter-plot .tip').hidden")
    x, y = centre(opened, f"[...document.querySelectorAll({json.dumps(marks())})].pop()")
    opened.point(x, y)
    opened.frames()
    tip = text(opened, "#scatter-plot .tip")
    assert f"{last['method']} | {last['regularizer']}" in tip and f"Seed{last['seed']}" in tip
    assert last["trial_id"] in tip
    link = opened.js("document.querySelector('#scatter-plot .tip a').href")
    assert link == f"{source.run_base}{last['run_id']}"
    opened.point(5, 5)
    opened.until("document.querySelector('#scatter-plot .tip').hidden")


def test_without_pages_the_run_is_its_id(browser: Browser, source: Source, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(replace(source, run_base=None)), encoding="utf-8")
    browser.screen(1280, 900)
    browser.open(path)
    browser.js(f"document.querySelector({json.dumps(marks())}).focus()")
    assert compared(source.table).sort_values(X)["run_id"].iloc[0] in text(browser, "#scatter-plot .tip")
    assert count(browser, "#scatter-plot .tip a") == 0


def test_the_keyboard_goes_through_the_marks_and_keeps_one(opened: Browser, source: Source) -> None:
    rows = compared(source.table).sort_values(X).reset_index(drop=True)
    focused = "document.activeElement.getAttribute('aria-label')"
    assert count(opened, f'{marks()}[tabindex="0"]') == 1, "one stop of the Tab key for all marks"
    opened.js(f"""document.querySelector('{marks()}[tabindex="0"]').focus()""")
    for key, place in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(rows) - 1)):
        opened.key(key)
        said = opened.js(focused)
        assert f"seed {rows['seed'][place]}" in said and rows["method"][place] in said
        assert f"{rows[Y][place]:.3g}".rstrip("0") in said.replace("\N{MINUS SIGN}", "-")
        assert text(opened, "#scatter-plot .tip b").startswith(rows["method"][place])
    opened.key("Enter")
    kept = text(opened, "#scatter-plot .kept")
    assert rows["trial_id"].iloc[-1] in kept and "Clean error, test" in kept
    opened.key("Escape")
    assert opened.js("document.querySelector('#scatter-plot .tip').hidden")
    opened.js("document.querySelector('#scatter-plot .kept button').click()")
    assert opened.js("document.querySelector('#scatter-plot .kept').hidden")
    assert f"seed {rows['seed'].iloc[-1]}" in opened.js(focused), "the keyboard is where it was"


def test_curves_answer_too(opened: Browser) -> None:
    opened.js("""document.querySelector('#curves-plot .curve[tabindex="0"]').focus()""")
    opened.key("End")
    said = opened.js("document.activeElement.getAttribute('aria-label')")
    assert "early-stopped" in said and "at epoch 60" in said
    assert "Early-stopped, epoch" in text(opened, "#curves-plot .tip")
    assert count(opened, "#curves-plot .means") == 0
    choose(opened, "curves-plot", y="train_loss", means=True)
    assert count(opened, "#curves-plot .curve") == 53 and count(opened, "#curves-plot .means path") == 2 * 5
    assert texts(opened, "#curves-plot .title") == [
        "\N{UPWARDS ARROW} Training loss (nats)",
        "Epoch \N{RIGHTWARDS ARROW}",
    ]
    opened.js("document.querySelector('#curves-plot .as-table').open = true")
    opened.until("document.querySelectorAll('#curves-plot .as-table tbody tr').length === 53")


def test_the_mean_of_a_colour_is_the_mean(opened: Browser, source: Source) -> None:
    choose(opened, "curves-plot", y="robust_loss_gap", means=True)
    paths = opened.js("[...document.querySelectorAll('#curves-plot .curve')].map((one) => one.getAttribute('d'))")
    mean = opened.js("document.querySelector('#curves-plot .means path:not(.under)').getAttribute('d')")
    points = [[float(part) for part in point.split(",")] for point in mean.removeprefix("M").split("L")]
    kept = source.table[source.table["checkpoint"].str.startswith("epoch ") | (source.table["checkpoint"] == "last")]
    kept = kept[kept["state"] == "finished"]
    # from values to pixels by the ends of all curves
    last = kept[kept["checkpoint"] == "last"][Y].sort_values()
    ends = sorted((float(path.rpartition(",")[2]) for path in paths), reverse=True)
    fit = stats.linregress(last, ends)
    assert fit.rvalue == pytest.approx(-1, abs=1e-6)
    expected = kept[kept["method"] == "at"].groupby("epoch")[Y].mean()
    assert len(points) == len(expected) == 6
    np.testing.assert_allclose([y for _, y in points], fit.intercept + fit.slope * expected.to_numpy(), atol=0.15)


# what is shown


def legend(browser: Browser, name: str) -> str:
    """The button of a level, as an expression."""
    return f"document.querySelector({json.dumps(f'#scatter-plot [data-legend={json.dumps(name)}]')})"


def test_the_legend_hides_and_shows(opened: Browser, source: Source) -> None:
    networks = compared(source.table)
    button = legend(opened, "method=mart")
    opened.click(*centre(opened, button))
    opened.frames()
    others = networks[networks["method"] != "mart"]
    assert count(opened, marks()) == len(others) < len(networks)
    assert opened.js(f"{button}.getAttribute('aria-pressed')") == "false"
    assert opened.js(f"document.activeElement === {button}"), "the button keeps the focus"
    assert f"{len(others)} networks in 12 cells, {len(networks) - len(others)} hidden" in text(
        opened, "#scatter-plot .summary"
    )
    opened.click(*centre(opened, legend(opened, "checkpoint=best")))
    last = others[others["checkpoint"] == "last"]
    assert count(opened, marks()) == len(last) and count(opened, marks() + ".hollow") == 0
    summary = text(opened, "#scatter-plot .summary")
    tau, r = stats.kendalltau(last[X], last[Y]).statistic, stats.pearsonr(last[X], last[Y]).statistic
    assert f"Kendall \N{GREEK SMALL LETTER TAU} = {tau:.2f}, Pearson r = {r:.2f}. of what is shown, without" in summary
    for name in ("method=mart", "checkpoint=best"):
        opened.click(*centre(opened, legend(opened, name)))
    assert count(opened, marks()) == len(networks)
    assert "[" in text(opened, "#scatter-plot .summary")


def test_a_filter_goes_with_its_legend(opened: Browser) -> None:
    opened.js(f"{legend(opened, 'method=mart')}.click()")
    assert count(opened, marks()) < 106
    choose(opened, "scatter-plot", colour="seed")
    assert count(opened, marks()) == 106
    assert count(opened, "#scatter-plot .legend button[data-legend^='seed=']") == 4
    choose(opened, "scatter-plot", colour="robust_loss_test")
    assert count(opened, "#scatter-plot .ramp") == 1


def test_marks_joins_and_bars(opened: Browser, source: Source) -> None:
    networks = compared(source.table)
    cells = networks.groupby(["method", "regularizer", "checkpoint"]).size()
    assert count(opened, marks() + ".hollow") == (networks["checkpoint"] == "best").sum()
    assert count(opened, "#scatter-plot .joins path") == (cells > 1).sum()
    assert count(opened, "#scatter-plot .bars path") == 2 * len(networks)
    choose(opened, "scatter-plot", join=False, bars=False)
    assert count(opened, "#scatter-plot .joins") == count(opened, "#scatter-plot .bars") == 0
    assert opened.js("document.querySelector('#scatter-plot form').elements.logx.disabled") is False


def places(browser: Browser) -> np.ndarray:
    transforms = browser.js(
        f"[...document.querySelectorAll({json.dumps(marks())})].map((one) => one.getAttribute('transform'))"
    )
    return np.array(
        [[float(part) for part in one.split(")")[0].removeprefix("translate(").split()] for one in transforms]
    )


@pytest.mark.parametrize("log", [False, True])
def test_marks_stand_where_their_values_are(opened: Browser, source: Source, log: bool) -> None:
    choose(opened, "scatter-plot", x="worst_flatness_xi0.003", y="clean_loss_test", logx=log, logy=log)
    rows = compared(source.table).sort_values("worst_flatness_xi0.003")
    found = places(opened)
    for axis, name in enumerate(("worst_flatness_xi0.003", "clean_loss_test")):
        values = np.log(rows[name]) if log else rows[name]
        fit = stats.linregress(values, found[:, axis])
        assert fit.rvalue == pytest.approx(1 if axis == 0 else -1, abs=1e-5)
        assert fit.slope * (1 if axis == 0 else -1) > 0


@pytest.mark.parametrize("log", [False, True])
def test_ticks_stand_at_their_values(opened: Browser, source: Source, log: bool) -> None:
    choose(opened, "scatter-plot", logx=log)
    pairs = opened.js("""[...document.querySelectorAll('#scatter-plot text[text-anchor=middle]')].map(
        (one) => [one.textContent, Number(one.getAttribute('x'))])""")
    values = np.array([float(label.replace("\N{MINUS SIGN}", "-")) for label, _ in pairs])
    at = np.array([place for _, place in pairs])
    rows = compared(source.table).sort_values(X)
    inner: Any = np.log if log else np.asarray
    expected = np.interp(inner(values), inner(rows[X].to_numpy()), places(opened)[:, 0])
    inside = (values > rows[X].min()) & (values < rows[X].max())
    assert inside.sum() >= 2
    np.testing.assert_allclose(at[inside], expected[inside], atol=0.2)


def test_a_cell_of_the_matrix_leads_to_its_scatter(opened: Browser) -> None:
    opened.js('document.querySelector(\'[data-x="worst_flatness_xi0.003"][data-y="robust_error_gap"]\').click()')
    form = "document.querySelector('#scatter-plot form').elements"
    assert opened.js(f"[{form}.x.value, {form}.y.value]") == ["worst_flatness_xi0.003", "robust_error_gap"]
    assert any("Robust error gap" in title for title in texts(opened, "#scatter-plot .title"))


def test_the_table_shows_what_the_plot_shows(opened: Browser, source: Source) -> None:
    opened.js(f"{legend(opened, 'method=at')}.click()")
    opened.js("document.querySelector('#scatter-plot .as-table').open = true")
    rows = "#scatter-plot .as-table tbody tr"
    opened.until(f"document.querySelectorAll('{rows}').length > 0")
    assert count(opened, rows) == count(opened, marks()) == (compared(source.table)["method"] != "at").sum()
    assert count(opened, "#scatter-plot .as-table caption") == 1
    assert opened.js("document.querySelector('#scatter-plot .as-table th').scope") == "col"


def test_nothing_left_says_so(opened: Browser) -> None:
    opened.js(f"{legend(opened, 'method:all')}.click()")
    assert count(opened, marks()) == 0 and "Nothing to show" in texts(opened, "#scatter-plot .nothing")
    assert opened.problems == []


def test_a_rank_of_ties_is_as_scipy_says(browser: Browser, source: Source, tmp_path: Path) -> None:
    table = source.table.copy()
    table[X] = pd.Series(np.random.default_rng(0).integers(0, 4, len(table)), dtype=float)
    path = tmp_path / "report.html"
    path.write_text(html(replace(source, table=table)), encoding="utf-8")
    browser.screen(1280, 900)
    browser.open(path)
    networks = compared(table)
    tau = stats.kendalltau(networks[X], networks[Y]).statistic
    assert f"= {tau:.2f}".replace("-", "\N{MINUS SIGN}") in text(browser, "#scatter-plot .summary")


def test_print_opens_what_is_folded_and_is_light(browser: Browser, file: Path) -> None:
    browser.screen(760, 900, dark=True)
    browser.open(file)
    before = count(browser, "details[open]")
    browser.js("dispatchEvent(new Event('beforeprint'))")
    assert count(browser, "details[open]") == count(browser, "details:not(.as-table)") > before
    mark = f"document.querySelector({json.dumps(marks() + ':not(.hollow)')}).style.fill"
    light = browser.js(mark)
    browser.js("dispatchEvent(new Event('afterprint'))")
    assert count(browser, "details[open]") == before
    assert browser.js(mark) != light
