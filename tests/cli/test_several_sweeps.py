"""Several sweeps in one question: `correlate a b`, `report a b` and `load_sweep("a", "b")` on what is on record."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from orchestrator import compared, correlate, describe, load_sweep
from orchestrator.errors import UserError
from orchestrator.run_content import RunContent
from orchestrator.sink import RunSink
from orchestrator.spec.external import External
from orchestrator.spec.sweep import Trial
from tests.cli.recording import OnRecord, metrics, put_on_record
from tests.e2e.sweeping import run_inside
from tests.report.parsed import parse
from workers.journal import Record

FLATNESS = "average_flatness_xi0.5"
GAP = "robust_loss_gap"
TEXT = """name: {name}
grid: {{methods: [at, trades, mart], seeds: {seeds}}}
evaluation: {{measures: [robustness, {{name: average_flatness, draws: {draws}}}]}}
storage: runs
"""
GAPS = {"at": 0.5, "trades": 0.25, "mart": 0.375}
Said = Callable[..., str]


def gap(trial: Trial, shift: float = 0.0) -> dict[str, float]:
    value = GAPS[trial.method.name] + trial.seed / 32 + shift
    return {GAP: value, FLATNESS: value**2 + trial.seed / 16}


def shifted(trial: Trial) -> dict[str, float]:
    """As another device would give it: the same but for rounding."""
    return gap(trial, 1 / 1024)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`a` has seeds 0 and 1, `b` 1 and 2 of the same cells, `c` was measured with more draws, and has seed 3.

    The seed 1 of mart failed in `a`. Both have a network from elsewhere called `net`, which is not the same.
    """
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/all.db")
        _record(folder)
        yield folder


def _record(folder: Path) -> None:
    for name, seeds, draws in (("a", [0, 1], 10), ("b", [1, 2], 10), ("c", [3], 20)):
        (folder / f"{name}.yaml").write_text(TEXT.format(name=name, seeds=seeds, draws=draws))
    a = put_on_record(folder / "a.yaml", gap)
    b = put_on_record(folder / "b.yaml", shifted)
    put_on_record(folder / "c.yaml", gap)
    a.store.set_state(run_of(a, "mart", 1), "failed", {"error_class": "diverged", "error": f"nan in {folder}/runs/x"})
    for sweep, weights in ((a, "1" * 64), (b, "2" * 64)):
        trial = sweep.file.sweep.trials()[0]
        net = External(label="net", weights=weights, data=trial.data, attack=trial.training.attack)
        parent = str(sweep.store.parent_run(sweep.file.sweep.name))
        run_id = sweep.store.create_run(RunContent.of_external(net, {}), sweep.file.sweep.name, parent, {})
        tag = Record("tag", "evaluation_id", text=sweep.file.sweep.evaluation.evaluation_id)
        values = metrics({GAP: 0.75, FLATNESS: 1.0 + int(weights[0])})
        RunSink(sweep.store.uri, run_id).send([*values, tag, Record("state", "state", text="finished")])


def run_of(on_record: OnRecord, method: str, seed: int) -> str:
    trials = {(trial.method.name, trial.seed): trial.trial_id for trial in on_record.file.sweep.trials()}
    return on_record.runs[trials[method, seed]]


@pytest.fixture
def said(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    monkeypatch.chdir(made)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made}/all.db")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run_inside(*words) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def asked(said: Said, *words: str) -> Any:
    return json.loads(said("correlate", *words, "--target", GAP, "--json"))


def test_a_trial_of_two_sweeps_counts_once(said: Said) -> None:
    found = asked(said, "a", "b.yaml")
    # at and trades have seeds 0 to 2, mart too, its seed 1 from b; net twice
    assert (found["networks"], found["cells"]) == (11, 5)
    points = [(GAPS[name] + seed / 32, seed) for name in GAPS for seed in (0, 1)]
    points += [(GAPS[name] + 2 / 32 + 1 / 1024, 2) for name in GAPS]
    points[5] = (points[5][0] + 1 / 1024, 1)  # mart's, which failed in a
    pairs = [(value, value**2 + seed / 16) for value, seed in points] + [(0.75, 2.0), (0.75, 3.0)]
    (pair,) = found["pairs"]
    assert pair["kendall"]["value"] == pytest.approx(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
    assert pair["pearson"]["value"] == pytest.approx(stats.pearsonr(*zip(*pairs, strict=True)).statistic)
    assert [(trial["label"], trial["sweeps"], trial["used"]) for trial in found["shared"]] == [
        ("at | none | seed 1", ["a", "b"], "a"), ("trades | none | seed 1", ["a", "b"], "a"),
    ]  # fmt: skip
    assert any(line.startswith("in both a and b: 2 trials, counted once, as in a: ") for line in found["mixed"])
    assert found["not_used"] == [], "what failed in one sweep and finished in the other is used"
    assert asked(said, "b", "a")["shared"][0]["used"] == "b"


def test_by_sweep_each_is_as_it_is_alone(said: Said) -> None:
    groups = asked(said, "a", "b", "--by", "sweep")["groups"]
    assert list(groups) == ["a", "b"]
    for name, group in groups.items():
        alone = asked(said, name)
        for each in (group, alone):
            for pair in each["pairs"]:
                pair["p"].pop("holm")  # corrected for all groups
        assert (group["networks"], group["pairs"]) == (alone["networks"], alone["pairs"])
    rows = asked(said, "a", "b", "--where", "sweep == 'b'")
    assert rows["networks"] == 7 and rows["shared"] == []


def test_networks_from_elsewhere_of_one_name_are_two_cells(said: Said) -> None:
    table = load_sweep("a", "b")
    assert table.columns[0] == "sweep"
    nets = table[table["method_name"] == "external"]
    assert list(nets["method"]) == ["external(label=net, sweep=a)", "external(label=net, sweep=b)"]
    assert set(table["setting"]) == {""}
    result = correlate(compared(table), [FLATNESS], [GAP])
    assert (result.networks, result.cells) == (11, 5)
    assert len(result.left_out) == 2 and {item.reason for item in result.left_out} == {"a second row of this network"}
    assert describe(table).loc[FLATNESS, "measure"] == "average_flatness"
    assert "sweep" not in load_sweep("a")


def test_other_settings_of_a_measure_are_refused_and_listed(said: Said, tmp_path: Path) -> None:
    phrase = "mixed evaluation setting average_flatness.draws: 7 trials with 10, 3 trials with 20"
    for words in (("correlate", "b", "c"), ("report", "b", "c", "-o", str(tmp_path / "r.html"))):
        text = said(*words, code=2)
        assert phrase in text and "--allow-mixed" in text and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"average_flatness\.draws"):
        load_sweep("b", "c")
    assert len(load_sweep("b", "c", allow_mixed=True)) == 10
    assert phrase in asked(said, "b", "c", "--allow-mixed")["mixed"]
    assert asked(said, "b", "c", "--where", "sweep == 'c'")["mixed"] == [], "nothing is mixed in what is asked about"
    said("report", "b", "c", "--allow-mixed", "-o", str(tmp_path / "r.html"))
    answer = parse((tmp_path / "r.html").read_text()).one("section", id="answer").text
    assert "Over 10 networks" in answer and phrase in answer


def test_a_report_of_two(said: Said, made: Path, tmp_path: Path) -> None:
    said("report", "a", "b", "-o", str(tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text()
    page = parse(text)
    assert page.one("h1").text == "a + b" and "Over 11 networks in 5 cells" in page.one(class_="sentence").text
    assert "11 finished" in page.one(class_="meta").text and "failed" not in page.one(class_="meta").text
    data = json.loads("".join(page.one(id="data")._text()))
    assert data["networks"]["size"] == 11 and data["networks"]["columns"]["sweep"]["levels"] == ["a", "b"]
    cells = page.one("section", id="cells").text
    assert cells.count("3 finished: seeds 0, 1, 2") == 3
    files = [element.text for element in page.one("section", id="provenance").all("summary")]
    assert files == ["The sweep file of a", "The sweep file of b"]
    assert str(made) not in text


def test_what_is_written_is_where_it_was_asked_for(said: Said, made: Path, tmp_path: Path) -> None:
    before = sorted(made.rglob("*analysis*"))
    assert "wrote" not in said("correlate", "a", "b")
    assert sorted(made.rglob("*analysis*")) == before
    text = said("correlate", "a", "b", "--figures", str(tmp_path / "f"))
    assert f"wrote  in {tmp_path / 'f'}" in text
    written = {path.name for path in (tmp_path / "f").iterdir()}
    assert written >= {"table.csv", "correlation.json", f"{GAP}-vs-{FLATNESS}.png"}
    assert (tmp_path / "f" / "table.csv").read_text().startswith("sweep,")


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("correlate a a.yaml", "need different names: a, a"),
        ("correlate a nowhere", "no sweep called 'nowhere'"),
        ("correlate a --by sweep", "no column 'sweep'"),
        ("report a b", "say where with --output"),
    ],
)
def test_mistakes_are_messages(said: Said, words: str, phrase: str) -> None:
    assert phrase in said(*words.split(), code=2)


def test_none_is_no_sweep() -> None:
    with pytest.raises(UserError, match="load_sweep needs a sweep"):
        load_sweep()
