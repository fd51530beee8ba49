"""What reads sweeps that are on record: `compare`, `export`, `correlate`, and the same in Python and in a notebook."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import orchestrator
from orchestrator import compared, correlate, describe, load_sweep
from orchestrator.analysis.table import read_table, read_tables
from orchestrator.errors import UserError
from orchestrator.evaluations import Changes, changed
from orchestrator.spec.measures import value_keys
from orchestrator.spec.sweep import Trial
from tests.cli.recording import OnRecord, put_on_record
from tests.e2e.sweeping import run_inside

TOP = Path(__file__).parents[2]
NOTEBOOK = TOP / "examples" / "flatness.ipynb"
FLATNESS = "average_flatness_xi0.5"
TEXT = """name: one
grid: {methods: [at, trades], seeds: [0, 1]}
evaluation: {measures: [robustness, average_flatness]}
storage: runs
"""
GAPS = {("at", 0): 0.5, ("at", 1): 0.75, ("trades", 0): 0.25, ("trades", 1): 0.375}


def gap(trial: Trial) -> float:
    return GAPS[trial.method.name, trial.seed]


def first(trial: Trial) -> dict[str, float]:
    return {"robust_loss_gap": gap(trial), FLATNESS: 2 * gap(trial) ** 2, "cost/train_seconds": 3.0}


def half(trial: Trial) -> dict[str, float]:
    return {key: value / 2 for key, value in first(trial).items()}


def tenfold(trial: Trial) -> dict[str, float]:
    return {"robust_loss_gap": 10 * gap(trial)}


@dataclass(frozen=True)
class Place:
    folder: Path
    one: OnRecord
    two: OnRecord
    other: str
    """Id of another evaluation of `one`."""

    def said(self, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert run_inside(*words) == code
        printed = capsys.readouterr()
        return printed.out, printed.err

    def json(self, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
        return json.loads(self.said(capsys, *words, "--json")[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reading")
    kept = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/all.db"  # making a store takes longer than all the rest
    (folder / "one.yaml").write_text(TEXT)
    (folder / "two.yaml").write_text(TEXT.replace("one", "two").replace("[0, 1]", "[1]") + "training: {epochs: 7}\n")
    one = put_on_record(folder / "one.yaml", first)
    two = put_on_record(folder / "two.yaml", half)
    other = changed(one.file.sweep, Changes(measures="robustness", settings=("test_examples=7",)))
    one.evaluate(other, tenfold)
    yield Place(folder, one, two, other.evaluation_id)
    if kept is None:
        del os.environ["MLFLOW_TRACKING_URI"]
    else:
        os.environ["MLFLOW_TRACKING_URI"] = kept


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.folder}/all.db")
    monkeypatch.setenv("COLUMNS", "200")
    return made


def test_compare_two_sweeps(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = place.json(capsys, "compare", "one.yaml", "two")
    by_name = {each["measure"]: each for each in found["differences"]}
    assert list(by_name) == ["robust_loss_gap", FLATNESS]
    assert by_name["robust_loss_gap"]["difference"] == -(0.75 + 0.375) / 4
    assert (by_name["robust_loss_gap"]["low"], by_name["robust_loss_gap"]["high"]) == (-0.375, -0.1875)
    assert found["answer"].startswith("Over 2 pairs of last networks in 2 cells, robust_loss_gap is lower in two")
    assert found["settings"] == ["training.epochs: 150 in one, 7 in two (2 pairs)"]
    assert sorted(found["unpaired"]) == [
        f"{method} | none | seed 0: only in one, two has no such network" for method in ("at", "trades")
    ]
    said, _ = place.said(capsys, "compare", "one", "two", "--measure", "cost_train_seconds")
    assert said.startswith("Over 2 pairs of last networks in 2 cells, cost_train_seconds is lower in two than in one")
    assert "differs: training.epochs: 150 in one, 7 in two (2 pairs)" in said


def test_compare_two_evaluations_of_one_sweep(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = place.json(capsys, "compare", "one", "--evaluation-b", place.other[:6])
    (only,) = found["differences"]
    assert (only["measure"], only["pairs"]) == ("robust_loss_gap", 4)
    assert only["difference"] == pytest.approx(9 * sum(GAPS.values()) / 4)
    assert (found["a"], found["b"], found["settings"], found["unpaired"]) == ("one", f"one ({place.other[:6]})", [], [])
    assert found["notes"][0].startswith("Measured with different settings")
    assert "4 pairs of 4: one and the same network on both sides." in found["notes"]


REFUSED = {
    "itself": ("compare one", "this would compare a sweep with itself"),
    "no such sweep": ("compare one three", "no sweep called 'three'"),
    "no such evaluation": ("compare one two --evaluation-b zz", "--evaluation zz: 0 evaluations"),
    "no such column": ("compare one two --measure robust_loss_gab", "did you mean 'robust_loss_gap'?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_compare_refuses(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words, phrase = REFUSED[name]
    out, err = place.said(capsys, *words.split(), code=2)
    assert out == "" and phrase in err


def test_mixed_data_are_refused_unless_allowed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    trial_id = next(iter(place.one.runs))
    place.one.send(trial_id, data_digest="other", torch_version="2.0.1")
    try:
        for words in (["correlate", "one"], ["compare", "one", "two"]):
            out, err = place.said(capsys, *words, code=2)
            assert out == "" and "mixed data_digest" in err and "--allow-mixed" in err
            found = place.json(capsys, *words, "--allow-mixed")
            assert any("with other" in line for line in found["mixed"])
            assert any("mixed torch_version: " in line and "with 2.0.1" in line for line in found["mixed"])
        out, err = place.said(capsys, "export", "one")
        assert "mixed data_digest" in err and len(pd.read_csv(io.StringIO(out))) == 4
    finally:
        place.one.send(trial_id, data_digest="d", torch_version=place.one.store.runs_by_id(
            [list(place.one.runs.values())[1]])[0].tags["torch_version"])  # fmt: skip
    assert place.json(capsys, "correlate", "one")["mixed"] == []


def test_fresh_looks_again_at_what_was_changed_by_hand(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_id, run_id = next(iter(place.one.runs.items()))
    client = place.one.store.client
    monkeypatch.setattr("orchestrator.local_copy.MARGIN_MS", -1)  # the last change was long before the last look

    def found(*words: str) -> float:
        rows = place.json(capsys, "status", "one", *words)["trials"]
        return float(next(row["robust_loss_gap"] for row in rows if row["trial_id"] == trial_id))

    assert found() == 0.5
    client.log_metric(run_id, "robust_loss_gap", 7.0, step=2)
    try:
        assert [found(), found("--fresh"), found()] == [0.5, 7.0, 7.0]
    finally:
        client.log_metric(run_id, "robust_loss_gap", 0.5, step=3)
        assert found("--fresh") == 0.5


def test_load_sweep_is_what_the_commands_see(place: Place, tmp_path: Path) -> None:
    table = load_sweep("one")
    pd.testing.assert_frame_equal(table, read_table(place.one.file.sweep, place.one.store, fresh=True))
    assert (table.attrs["sweep"], table.attrs["evaluation_id"]) == (
        "one",
        place.one.file.sweep.evaluation.evaluation_id,
    )
    assert table["robust_loss_gap"].dtype == "float64" and table["epoch"].dtype == "Int64"
    assert table["seed"].dtype == "int64" and table["attempt"].dtype == "int64"
    assert all(
        isinstance(text, str) for text in table[["method", "state", "torch_version", "other_runs"]].to_numpy().flat
    )
    assert list(load_sweep(Path("one.yaml"), evaluation=place.other)["robust_loss_gap"]) == [
        10 * x for x in GAPS.values()
    ]
    assert load_sweep("two", storage=place.folder / "runs", tracking_uri=place.one.store.uri).shape[0] == 2
    assert set(describe(table).index) == set(table.columns)
    table.to_parquet(tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet").attrs == table.attrs
    with pytest.raises(UserError, match="no sweep called 'three'"):
        load_sweep("three")
    with pytest.raises(UserError, match="small"):
        load_sweep("one.yaml", profile="small")


def test_only_what_is_offered_is_there() -> None:
    assert set(orchestrator.__all__) >= {"load_sweep", "correlate", "scatter", "compared", "compare", "describe"}
    assert all(callable(getattr(orchestrator, name)) for name in orchestrator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_sweeps'"):
        _ = orchestrator.load_sweeps  # type: ignore[attr-defined]


def test_several_sweeps_in_one_table(place: Place) -> None:
    sides = [(each.file.sweep, each.store) for each in (place.one, place.two)]
    table = read_tables(sides)
    assert table.columns[0] == "sweep" and list(table["sweep"]) == ["one"] * 4 + ["two"] * 2
    # alone, neither has anything unusual; together they do, and no cell of one is a cell of the other
    assert set(load_sweep("one")["setting"]) == set(load_sweep("two")["setting"]) == {""}
    cells = table.groupby(["method", "regularizer", "setting"])["sweep"].nunique()
    assert len(cells) == 4 and set(cells) == {1}
    found = correlate(compared(table), [FLATNESS], ["robust_loss_gap"])
    assert (found.networks, found.cells) == (6, 4)
    assert describe(table).loc["sweep", "meaning"]
    with pytest.raises(UserError, match="need different names: one, one"):
        read_tables([sides[0], sides[0]])
    otherwise = place.two.file.sweep.model_copy(update={"evaluation": changed(sides[0][0], Changes(seed=5))})
    both = read_tables([sides[0], (otherwise, place.two.store)])
    assert list(both["state"]) == ["finished"] * 4 + ["measured otherwise"] * 2


def test_the_notebook_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "outputs are stripped"
    (place.folder / "experiments.yaml").write_text((TOP / "experiments.yaml").read_text())
    monkeypatch.setitem(GAPS, ("awp", 0), 0.25)
    monkeypatch.setitem(GAPS, ("awp", 1), 0.5)

    def values(trial: Trial) -> dict[str, float]:
        found = gap(trial) + len(trial.regularizer_label) / 64
        keys = value_keys(on_record_sweep.evaluation.measures)
        return dict.fromkeys(keys, 0.125) | {"robust_loss_gap": found, FLATNESS: found**2}

    from orchestrator.spec.loading import load_sweep_file

    on_record_sweep = load_sweep_file(place.folder / "experiments.yaml").sweep
    put_on_record(place.folder / "experiments.yaml", values)
    (place.folder / "examples").mkdir()
    monkeypatch.chdir(place.folder / "examples")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for cell in cells:
            exec("".join(cell["source"]), names)
    assert "Over 18 networks in 9 cells, robust_loss_gap goes with average_flatness_xi0.5" in said.getvalue()
    assert {path.name for path in Path.cwd().iterdir()} == {"figure.png", "figure.svg", "figure.csv"}
