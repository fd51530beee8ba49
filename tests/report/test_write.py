"""The report of what a real, small store holds: in the sweep's folder, on its run, and by the command."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Metric, RunTag

from orchestrator.analysis.answer import ask
from orchestrator.cli import commands
from orchestrator.evaluations import Changes, changed, remember
from orchestrator.plan import make_plan
from orchestrator.recorded import remember as remember_sweep
from orchestrator.report import headline
from orchestrator.report.write import write_report
from orchestrator.sink import TAG
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.submit import Submitted
from orchestrator.tracking import Store
from tests.e2e.sweeping import run_inside
from tests.report.parsed import Element, parse
from workers import layout
from workers.journal import Journal, Record
from workers.storage import Folder

COMMIT = "0123abc"
TEXT = """\
name: small
data: {name: digits, validation_size: 197}
training: {epochs: 3, early_stopping: {}, keep_every: 1}
grid: {methods: [at, trades], regularizers: [none, mixup], seeds: [0, 1]}
evaluation: {measures: [robustness, average_flatness], checkpoints: [last, best, kept]}
"""


@dataclass(frozen=True)
class Recorded:
    file: SweepFile
    store: Store
    parent: str
    run_ids: list[str]

    @property
    def analysis(self) -> Path:
        return Path(self.file.sweep.storage) / "small" / "analysis"

    def artifacts(self, folder: str = "") -> list[str]:
        return [item.path for item in self.store.client.list_artifacts(self.parent, folder)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Eight trials: six finished, one failed, one missing."""
    base = tmp_path_factory.mktemp("small")
    (base / "s.yaml").write_text(TEXT)
    file = load_sweep_file(base / "s.yaml")
    remember_sweep(file)
    store = Store.of(file.sweep)
    store.prepare()
    parent = store.open_parent(file.sweep, TEXT, COMMIT)
    run_ids = [_record(file, store, parent, number) for number in range(7)]
    return Recorded(file, store, parent, run_ids)


def _record(file: SweepFile, store: Store, parent: str, number: int) -> str:
    sweep, trial = file.sweep, file.sweep.trials()[number]
    run_id = store.create_trial_run(trial, sweep.evaluation, sweep.name, parent, COMMIT)
    if number == 3:
        store.set_state(run_id, "failed", {"error_class": "diverged", "error": "DivergedError: nan <b>"})
        return run_id
    tags = {
        "evaluation_id": sweep.evaluation.evaluation_id,
        "kept_epochs": "1,2",
        "attempt": "1",
        "host": "here.org",
    }
    points = []
    for epoch in (1, 2, 3):
        gap = 0.1 * (1 + number) * epoch
        points += [Metric("robust_loss_gap", gap, 0, epoch), Metric("average_flatness_xi0.5", 2 * gap, 0, epoch)]
    points += [Metric("best/epoch", 2, 0, 3), Metric("best/robust_loss_gap", 0.2 * (1 + number), 0, 2)]
    points += [Metric("best/average_flatness_xi0.5", 0.4 * (1 + number), 0, 2), Metric("cost/train_seconds", 9, 0, 3)]
    store.client.log_batch(run_id, points, tags=[RunTag(TAG + key, text) for key, text in tags.items()])
    store.set_state(run_id, "finished")
    records = [Record("metric", "train/loss", value=1.0 / epoch, step=epoch) for epoch in (1, 2, 3)]
    Journal(Folder(f"{sweep.storage}/{sweep.name}/{trial.trial_id}")).add(records)
    return run_id


def page(path: Path) -> Element:
    return parse(path.read_text(encoding="utf-8"))


def data_of(parsed: Element) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(parsed.one(id="data")._text()))
    return found


def test_it_is_in_the_folder_and_on_the_run(recorded: Recorded) -> None:
    path = write_report([(recorded.file, recorded.store)])
    assert path == recorded.analysis / "report.html"
    assert "report.html" in recorded.artifacts()
    logged = recorded.store.client.download_artifacts(recorded.parent, "report.html")
    assert Path(logged).read_bytes() == path.read_bytes()


def test_it_shows_what_is_recorded(recorded: Recorded) -> None:
    parsed = page(write_report([(recorded.file, recorded.store)]))
    assert "6 finished" in parsed.one(class_="meta").text and "1 failed" in parsed.one(class_="meta").text
    assert "Over 12 networks in 4 cells, robust loss gap goes with" in parsed.one(class_="sentence").text
    failures = parsed.one("section", id="failures").text
    assert "DivergedError: nan <b>" in failures and f"run {recorded.run_ids[3]}" in failures
    assert not parsed.one("section", id="failures").all("a"), "an SQLite store has no pages"
    assert parsed.one("pre").text.splitlines() == [" ".join(TEXT.split())]
    provenance = parsed.one("section", id="provenance").text
    assert "host 1" in provenance and "<storage>/mlflow.db" in provenance
    assert str(recorded.file.path.parent) not in (recorded.analysis / "report.html").read_text()
    curves = data_of(parsed)["curves"]
    assert curves["series"]["robust_loss_gap"]["of"]["0"] == [0, pytest.approx([0.1, 0.2, 0.3]), [2, 0.2]]
    assert curves["axes"][0] == [1, 2, 3]
    assert len(curves["series"]["train_loss"]["of"]) == 6


def test_landscapes_in_the_folder_are_shown(recorded: Recorded) -> None:
    recorded.analysis.mkdir(parents=True, exist_ok=True)
    assert not page(write_report([(recorded.file, recorded.store)])).all("section", id="landscapes")
    figure = recorded.analysis / "landscape.svg"
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    try:
        assert page(write_report([(recorded.file, recorded.store)])).one("section", id="landscapes").all("img")
    finally:
        figure.unlink()


def test_the_command(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recorded.analysis.stat().st_mtime_ns
    target = tmp_path / "new" / "r.html"
    assert run_inside("report", str(recorded.file.path), "-o", str(target)) == 0
    assert str(target) in capsys.readouterr().out and page(target).one("h1").text == "small"
    assert recorded.analysis.stat().st_mtime_ns == before, "with -o the report is there and nowhere else"
    assert run_inside("report", str(recorded.file.path)) == 0
    assert str(recorded.analysis / "report.html") in capsys.readouterr().out


def test_a_recorded_sweep_is_enough(recorded: Recorded, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    assert run_inside("report", "small", "--storage", recorded.file.sweep.storage, "-o", str(target)) == 0
    assert page(target).one("pre").text == " ".join(TEXT.split())


def test_latex_from_the_command(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "table.tex"
    assert run_inside("export", str(recorded.file.path), "-o", str(target)) == 0
    assert r"\begin{tabular}" in target.read_text() and "mixup" in target.read_text()
    capsys.readouterr()
    assert run_inside("export", str(recorded.file.path), "--format", "latex") == 0
    assert capsys.readouterr().out == target.read_text()
    assert run_inside("export", str(recorded.file.path), "-o", str(tmp_path / "absent" / "table.tex")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_another_evaluation_has_a_report_of_its_own(recorded: Recorded) -> None:
    sweep = recorded.file.sweep
    evaluation = changed(sweep, Changes(settings=("draws=3",)))
    remember(sweep, evaluation)
    prefix, run_id = layout.evaluation_prefix(evaluation.evaluation_id), recorded.run_ids[0]
    values = {"robust_loss_gap": 7.0, "average_flatness_xi0.5": 8.0}
    recorded.store.client.log_batch(
        run_id,
        [Metric(prefix + key, value, 0, 3) for key, value in values.items()],
        tags=[RunTag(TAG + layout.evaluated_tag(evaluation.evaluation_id), "finished")],
    )
    path = write_report([(recorded.file, recorded.store)], evaluation=evaluation.evaluation_id[:6])
    assert path.parent.name == f"analysis-{evaluation.evaluation_id[:8]}"
    assert data_of(page(path))["networks"]["columns"]["robust_loss_gap"]["values"] == [7]
    assert f"{path.parent.name}/report.html" in recorded.artifacts(path.parent.name)


def test_a_submit_that_ran_something_makes_it_anew(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.analysis / "report.html"
    path.unlink(missing_ok=True)
    after = make_plan(recorded.file.sweep, recorded.store.trial_runs("small"))
    nothing = Submitted(after, 0, None, after, recorded.parent)
    assert commands.publish(recorded.file, nothing) == (None, None)
    assert not path.exists()
    done = Submitted(after, 2, None, after, recorded.parent)
    assert commands.publish(recorded.file, done) == (None, path), "no result lies in the folders"
    assert commands.report(recorded.file, done, path, as_json=True) == 1
    assert page(path).one("h1").text == "small"
    assert json.loads("[" + capsys.readouterr().out.replace("}\n{", "},\n{") + "]"), "stdout is JSON alone"


def test_what_is_correlated_already_is_not_correlated_again(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask([(recorded.file.sweep, recorded.store)]).correlation
    files, told = [(recorded.file, recorded.store)], tmp_path / "told.html"
    again = page(write_report(files, tmp_path / "again.html"))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(headline, "correlate", never)
    for name in ("sentence", "tau", "forest"):
        assert page(write_report(files, told, result=found)).one(class_=name).text == again.one(class_=name).text


def test_mistakes_are_messages(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    cases = {
        "cannot write": ("report", str(recorded.file.path), "-o", str(tmp_path / "taken" / "r.html")),
        "0 evaluations": ("report", str(recorded.file.path), "--evaluation", "zzzz"),
        "nothing is recorded": ("report", str(recorded.file.path), "--storage", str(tmp_path / "other")),
    }
    for phrase, words in cases.items():
        assert run_inside(*words) == 2
        assert phrase in capsys.readouterr().err


def test_an_http_store_has_pages(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    served = SimpleNamespace(uri="http://me:secret@host:5000", experiment_id="3")
    asked = ("trial_runs", "changed_runs", "runs_by_id", "holds_exactly", "parent_run", "log_files", "with_curves")
    for name in asked:
        setattr(served, name, getattr(recorded.store, name))
    text = write_report([(recorded.file, served)]).read_text()  # type: ignore[list-item]
    assert f'href="http://host:5000/#/experiments/3/runs/{recorded.run_ids[3]}"' in text
    assert "secret" not in text
