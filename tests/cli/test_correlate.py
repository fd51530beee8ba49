"""`flatsweep correlate` on a recorded sweep: what it prints in each form, and what it writes and logs."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Metric

from orchestrator import cli
from orchestrator.cli import running
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import value_keys
from orchestrator.tracking import Store

SWEEP = """
name: x
grid: {methods: [at, trades, mart], regularizers: [none, {name: label_noise, rate: 0.4}], seeds: [0, 1]}
evaluation: {measures: [robustness, average_flatness, wci]}
"""
ROBUST = "robust_loss_gap"
FLATNESS = "average_flatness_xi0.5"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve trials that are recorded as finished; nothing was trained. Flatness goes with the gap, wci does not."""
    top = tmp_path_factory.mktemp("recorded")
    (top / "s.yaml").write_text(SWEEP)
    sweep = load_sweep_file(top / "s.yaml").sweep
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, SWEEP, "")
    generator = np.random.default_rng(0)
    keys = value_keys(sweep.evaluation.measures)
    for trial in sweep.trials():
        run = store.create_trial_run(trial, sweep.evaluation, "x", parent, "")
        gap = generator.uniform()
        values = {key: generator.uniform() for key in keys} | {ROBUST: gap, FLATNESS: gap + 0.1 * generator.uniform()}
        store.client.log_batch(run, [Metric(key, value, 0, 20) for key, value in values.items()])
        store.set_state(run, "finished", {"evaluation_id": sweep.evaluation.evaluation_id})
    store.close_parent(parent, "finished")
    return top


@pytest.fixture
def said(recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(recorded)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)

    def run(*words: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["flatsweep", "correlate", "s.yaml", *words])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    return run


def logged(recorded: Path) -> set[str]:
    sweep = load_sweep_file(recorded / "s.yaml").sweep
    store = Store.of(sweep)
    parent = store.parent_run(sweep.name)
    return {Path(item.path).name for item in store.client.list_artifacts(parent, "analysis")}


def test_a_condition_writes_and_logs_nothing_of_its_own(said: Any, recorded: Path, tmp_path: Path) -> None:
    text = said("--where", "method_name == 'at'", "--measure", FLATNESS)
    assert "Over 4 networks in 2 cells" in text and "wrote" not in text
    assert not (recorded / "runs" / "x" / "analysis").exists() and not logged(recorded)
    text = said("--where", f"`{FLATNESS}` > 0.2", "--figures", str(tmp_path / "some"), "--measure", FLATNESS)
    assert {path.name for path in (tmp_path / "some").iterdir()} > {"table.csv", "correlation.json"}
    assert json.loads((tmp_path / "some" / "correlation.json").read_text())["where"] == f"`{FLATNESS}` > 0.2"
    assert not logged(recorded)


def test_the_table_has_the_matrix_and_the_answer(said: Any, recorded: Path) -> None:
    text = said()
    assert f"Over 12 networks in 6 cells, it stays open whether {ROBUST} goes with {FLATNESS}: Kendall tau" in " ".join(
        text.split()
    )
    assert "robust error" in text and "wci" in text
    files = {path.name for path in (recorded / "runs" / "x" / "analysis").iterdir()}
    assert f"{ROBUST}-vs-{FLATNESS}.svg" in files and not [name for name in files if "wci" in name]
    assert logged(recorded) >= {"table.csv", "correlation.json"}


def test_json_has_groups_and_the_question(said: Any) -> None:
    found = json.loads(said("--json", "--by", "method_name", "--target", ROBUST))
    assert (found["by"], found["where"]) == ("method_name", None)
    assert list(found["groups"]) == ["at", "trades", "mart"]
    assert [pair["measure"] for pair in found["pairs"]] == [FLATNESS, "wci"]
    for group in found["groups"].values():
        assert group["networks"] == 4
        assert [pair["measure"] for pair in group["pairs"]] == [FLATNESS, "wci"]
    assert json.loads(said("--format", "json", "--by", "method_name", "--target", ROBUST)) == found


def test_groups_are_printed(said: Any) -> None:
    text = said("--by", "regularizer", "--measure", FLATNESS, "--target", ROBUST)
    assert "regularizer = none" in text and "regularizer = label_noise(rate=0.4)" in text


def test_csv_on_standard_output_is_csv_alone(said: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(said("--format", "csv", "--by", "seed"))))
    found = json.loads(said("--json"))
    assert {row["group"] for row in rows} == {"", "seed = 0", "seed = 1"}
    assert [float(row["kendall"]) for row in rows if not row["group"]] == [
        pair["kendall"]["value"] for pair in found["pairs"]
    ]


@pytest.mark.parametrize(("name", "start"), [("latex", r"\begin{tabular}"), ("markdown", f"**{ROBUST}**")])
def test_other_forms(said: Any, name: str, start: str) -> None:
    assert said("--format", name).startswith(start)


def test_a_figure_for_a_paper(said: Any, tmp_path: Path) -> None:
    text = said("--measure", "wci", "--target", ROBUST, "--figure", str(tmp_path / "f.pdf"))
    assert f"wrote  {tmp_path / 'f.pdf'}" in text
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


def test_fewer_effective_pairs_on_demand(said: Any) -> None:
    words = ("--json", "--measure", FLATNESS, "--target", ROBUST)
    default, fewer = (json.loads(said(*words, *more)) for more in ((), ("--min-effective", "1")))
    assert default["pairs"][0]["sign_error"]["maximum"] is None
    assert fewer["pairs"][0]["sign_error"]["environments"] > 0


def test_a_submit_that_ran_nothing_draws_only_what_has_changed(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = load_sweep_file(recorded / "s.yaml")
    running._show_answer(file, None)
    capsys.readouterr()
    folder = recorded / "runs" / "x" / "analysis"
    drawn = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    running._show_answer(file, None)
    assert "as before:" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == drawn
    (folder / "table.csv").write_text("another")
    running._show_answer(file, None)
    assert "wrote" in capsys.readouterr().out and (folder / "table.csv").read_text() != "another"
