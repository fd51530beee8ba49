"""The local copy of a sweep's runs: always what the store holds, however it came to be, on a real SQLite store."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.analysis.table import read_table
from orchestrator.local_copy import LocalCopy, confirmed_runs, settled
from orchestrator.plan import Action, make_plan
from orchestrator.sink import CHANGED, RunSink
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.submit import rerun_failed
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.journal import Record

COMMIT = "0123abc"
TEXT = """name: x
training: {epochs: 3, keep_every: 1}
grid: {methods: [at, trades], seeds: [0, 1, 2, 3]}
evaluation: {measures: [robustness], checkpoints: [last, kept]}
"""
OTHER = Evaluation.model_validate({"measures": [{"name": "robustness", "test_examples": 7}], "checkpoints": ["last"]})


class Clock:
    """A time for marks and looks that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


@dataclass
class Place:
    store: Store
    sweep: Sweep
    parent: str
    base: Path
    clock: Clock
    ticks: int = field(default=0)

    def new_run(self, index: int) -> str:
        trial = self.sweep.trials()[index]
        return self.store.create_trial_run(trial, self.sweep.evaluation, "x", self.parent, COMMIT)

    def send(self, run_id: str, **words: Any) -> None:
        """What a worker records: values, `state=`, and tags."""
        self.ticks += 1
        records = []
        for key, value in words.items():
            if key == "state":
                records.append(Record("state", "state", text=value))
            elif isinstance(value, str):
                records.append(Record("tag", key, text=value))
            else:
                records.append(Record("metric", key, value=value, step=3, time_ms=self.ticks))
        RunSink(self.store.uri, run_id).send(records)

    def finish(self, run_id: str, **values: float) -> None:
        self.send(run_id, evaluation_id=self.sweep.evaluation.evaluation_id, kept_epochs="", **values)
        self.send(run_id, state="finished")

    def active(self) -> list[str]:
        return [run.run_id for run in self.store.trial_runs("x")]

    def same(self) -> None:
        """The copy's runs and table are those of the store."""
        assert LocalCopy(self.sweep, self.store).trial_runs() == self.store.trial_runs("x")
        self.same_table()

    def same_table(self) -> None:
        found = read_table(self.sweep, self.store)
        pd.testing.assert_frame_equal(found, read_table(self.sweep, self.store, fresh=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("copied")
    (base / "s.yaml").write_text(TEXT + f"tracking: {{uri: 'sqlite:///{base}/m.db'}}\n")
    sweep = load_sweep_file(base / "s.yaml").sweep
    store = Store.of(sweep)
    store.prepare()
    return Place(store, sweep, store.open_parent(sweep, TEXT, COMMIT), base, Clock())


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The store, emptied, and a sweep's folder without a copy."""
    for run_id in made.active():
        made.store.client.delete_run(run_id)
    folder = Path(made.sweep.storage) / "x"
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    for file in (folder / "cache").iterdir():
        file.unlink()
    monkeypatch.setattr("orchestrator.sink.time", made.clock)
    monkeypatch.setattr("orchestrator.local_copy.time", made.clock)
    return made


@pytest.fixture
def asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many runs each way of asking the store has brought."""
    counts: dict[str, list[int]] = {"trial_runs": [], "changed_runs": [], "runs_by_id": []}
    for name, found in counts.items():
        monkeypatch.setattr(place.store, name, counting(getattr(place.store, name), found))
    return counts


def counting(ask: Callable[..., list[TrialRun]], found: list[int]) -> Callable[..., list[TrialRun]]:
    def counted(*words: Any) -> list[TrialRun]:
        runs = ask(*words)
        if runs:
            found.append(len(runs))
        return runs

    return counted


def look(place: Place) -> list[TrialRun]:
    copy = LocalCopy(place.sweep, place.store)
    runs = copy.trial_runs()
    copy.keep()
    return runs


def test_only_what_changed_is_fetched(place: Place, asked: dict[str, list[int]]) -> None:
    ids = [place.new_run(index) for index in range(6)]
    for run_id in ids:
        place.finish(run_id, robust_loss_gap=0.5)
    look(place)
    assert asked == {"trial_runs": [6], "changed_runs": [], "runs_by_id": []}
    place.clock.now += 3600
    place.finish(ids[2], robust_loss_gap=0.7)
    place.finish(place.new_run(6), robust_loss_gap=0.9)
    runs = look(place)
    assert asked == {"trial_runs": [6], "changed_runs": [7], "runs_by_id": []}, "all are within the margin"
    assert [run.metrics["robust_loss_gap"] for run in runs] == [0.5, 0.5, 0.7, 0.5, 0.5, 0.5, 0.9]
    place.clock.now += 60
    place.finish(ids[0], robust_loss_gap=0.1)
    look(place)
    assert asked["changed_runs"] == [7, 3], "the two of a minute ago again, and the new one"
    place.clock.now += 3600
    look(place)
    assert asked == {"trial_runs": [6], "changed_runs": [7, 3, 3], "runs_by_id": []}


def test_a_run_that_is_being_worked_on_is_always_asked_for(place: Place, asked: dict[str, list[int]]) -> None:
    running, measured, waiting = (place.new_run(index) for index in range(3))
    place.send(running, state="running")
    place.finish(measured, robust_loss_gap=0.5)
    place.send(measured, **{layout.evaluated_tag("abc"): "running"})
    place.clock.now += 3600
    place.finish(place.new_run(3), robust_loss_gap=0.5)
    look(place)
    # a worker whose clock is days late
    place.clock.now -= 3 * 24 * 3600
    place.send(running, robust_loss_gap=0.25)
    place.send(measured, **{layout.evaluated_tag("abc"): "finished"})
    place.clock.now += 3 * 24 * 3600
    by_id = {run.run_id: run for run in look(place)}
    assert asked["runs_by_id"] == [2] and asked["changed_runs"] == [1] and len(asked["trial_runs"]) == 1
    assert by_id[running].metrics["robust_loss_gap"] == 0.25
    assert by_id[measured].tags[layout.evaluated_tag("abc")] == "finished"
    assert by_id[waiting].state == "pending"


def test_a_version_without_marks(place: Place, asked: dict[str, list[int]]) -> None:
    client, trials = place.store.client, place.sweep.trials()

    def old_run(index: int, state: str, status: str) -> str:
        tags = {"sweep": "x", "kind": "trial", "state": state, "trial_id": trials[index].trial_id}
        run = client.create_run(place.store.experiment_id, tags={f"flatsweep.{k}": v for k, v in tags.items()})
        client.update_run(run.info.run_id, status=status)
        return str(run.info.run_id)

    finished, waiting = old_run(0, "finished", "FINISHED"), old_run(1, "pending", "SCHEDULED")
    assert {run.run_id for run in look(place)} == {finished, waiting}
    client.set_tag(waiting, "flatsweep.state", "running")
    client.update_run(waiting, status="RUNNING")
    place.same()
    client.log_metric(waiting, "robust_loss_gap", 0.5)
    client.set_tag(waiting, "flatsweep.state", "finished")
    client.set_terminated(waiting)
    place.same()
    place.finish(finished, robust_loss_gap=0.125)  # this version goes on with an old run
    old_run(2, "finished", "FINISHED")
    place.same()


@pytest.mark.parametrize("seed", range(2))
def test_after_any_changes_the_copy_is_what_the_store_holds(seed: int, place: Place) -> None:
    draw = random.Random(seed)
    ids = [place.new_run(index) for index in range(4)]
    deleted: list[str] = []
    done = set()

    def add() -> None:
        ids.append(place.new_run(draw.randrange(8)))  # perhaps a second run of a trial

    def work() -> None:
        place.send(draw.choice(ids), state="running", robust_loss_gap=draw.random())

    def finish() -> None:
        place.finish(draw.choice(ids), robust_loss_gap=draw.random(), robust_loss_test=draw.random())

    def fail() -> None:
        place.send(draw.choice(ids), state="failed", error_class="diverged", error="boom")

    def measure_otherwise() -> None:
        prefix, run_id = layout.evaluation_prefix(OTHER.evaluation_id), draw.choice(ids)
        place.send(run_id, **{f"{prefix}robust_loss_gap": draw.random()})
        place.send(run_id, **{layout.evaluated_tag(OTHER.evaluation_id): draw.choice(["running", "finished"])})

    def take_up() -> None:
        place.store.set_state(draw.choice(ids), "pending", {"error_class": "", "error": ""})

    def delete() -> None:
        if len(ids) > 1:
            deleted.append(ids.pop(draw.randrange(len(ids))))
            place.store.client.delete_run(deleted[-1])

    def restore() -> None:
        if deleted:
            ids.append(deleted.pop(draw.randrange(len(deleted))))
            place.store.client.restore_run(ids[-1])

    def delete_and_restore() -> None:
        restore()
        delete()

    changes = [add, work, finish, finish, fail, measure_otherwise, take_up, delete, restore, delete_and_restore]
    for _ in range(30):
        place.clock.now += draw.choice([0, 1, 60, 3600])
        late = draw.choice([0, 0, 240])  # one writer's clock
        place.clock.now -= late
        change = draw.choice(changes)
        change()
        done.add(change.__name__)
        place.clock.now += late
        if draw.random() < 0.5:
            assert look(place) == place.store.trial_runs("x"), change.__name__
            assert confirmed_runs(place.sweep, place.store) == place.store.trial_runs("x"), change.__name__
    place.same()
    other = place.sweep.model_copy(update={"evaluation": OTHER})
    pd.testing.assert_frame_equal(read_table(other, place.store), read_table(other, place.store, fresh=True))
    assert len(done) > 5


def test_failed_trials_that_are_taken_up_again(place: Place) -> None:
    run_id = place.new_run(0)
    place.send(run_id, state="failed", error_class="diverged", error="boom")
    assert look(place)[0].state == "failed"
    place.clock.now += 3600
    plan = make_plan(place.sweep, place.store.trial_runs("x"))
    assert plan.counts()[Action.FAILED] == 1
    rerun_failed(frozenset(), None, from_scratch=False)(place.store, plan)
    (run,) = look(place)
    assert (run.state, run.status, run.error) == ("pending", "SCHEDULED", "")


def test_values_that_are_no_numbers(place: Place) -> None:
    run_id = place.new_run(0)
    place.finish(run_id, robust_loss_gap=float("nan"), robust_loss_test=float("inf"))
    look(place)
    place.same_table()
    (run,) = look(place)
    assert run.metrics["robust_loss_gap"] != run.metrics["robust_loss_gap"] and run.metrics["robust_loss_test"] > 1e300


def test_curves_are_asked_for_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = place.new_run(0)
    records = [Record("metric", "robust_loss_gap", value=epoch / 8, step=epoch, time_ms=epoch) for epoch in (1, 2, 3)]
    RunSink(place.store.uri, run_id).send(records)
    place.send(run_id, evaluation_id=place.sweep.evaluation.evaluation_id, kept_epochs="1,2")
    place.send(run_id, state="finished")
    asked = []
    ask = place.store.with_curves
    monkeypatch.setattr(place.store, "with_curves", lambda run, *more: asked.append(run.run_id) or ask(run, *more))
    for _ in range(3):
        table = read_table(place.sweep, place.store)
        first = table[table["run_id"] == run_id]
        assert list(first["checkpoint"]) == ["last", "epoch 1", "epoch 2"]
        assert list(first["robust_loss_gap"]) == [0.375, 0.125, 0.25]
    assert asked == [run_id]
    place.clock.now += 1
    RunSink(place.store.uri, run_id).send([Record("metric", "robust_loss_gap", value=5.0, step=1, time_ms=9)])
    table = read_table(place.sweep, place.store)
    assert list(table.loc[table["run_id"] == run_id, "robust_loss_gap"]) == [0.375, 5.0, 0.25]
    assert asked == [run_id] * 2


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "a bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "no parquet": lambda content: b"hello" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_made_again(damage: str, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.finish(place.new_run(0), robust_loss_gap=0.5)
    look(place)
    (file,) = (Path(place.sweep.storage) / "x" / "cache").iterdir()
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert look(place) == place.store.trial_runs("x")
    assert f"{file} is damaged and made again" in caplog.text
    caplog.clear()
    assert look(place) == place.store.trial_runs("x") and not caplog.text


def test_a_copy_of_another_store_is_not_believed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.finish(place.new_run(0), robust_loss_gap=0.5)
    look(place)
    (file,) = (Path(place.sweep.storage) / "x" / "cache").iterdir()
    other = Store(place.store.uri, "another", place.base)
    foreign = LocalCopy(place.sweep, other)
    assert foreign.trial_runs() == [] and not caplog.text
    name = LocalCopy(place.sweep, other)._file
    assert name != file.name
    (file.parent / name).write_bytes(file.read_bytes())
    assert LocalCopy(place.sweep, other).trial_runs() == []
    assert "of another format or store" in caplog.text


def test_nothing_is_kept_without_a_folder_of_the_sweep(place: Place, tmp_path: Path) -> None:
    place.finish(place.new_run(0), robust_loss_gap=0.5)
    elsewhere = place.sweep.model_copy(update={"storage": str(tmp_path)})
    assert (read_table(elsewhere, place.store)["state"] == "finished").sum() == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").write_text("no folder")
    assert (read_table(elsewhere, place.store)["state"] == "finished").sum() == 1


def test_every_change_is_marked(place: Place) -> None:
    run_id = place.new_run(0)

    def mark() -> int:
        (run,) = place.store.runs_by_id([run_id])
        assert CHANGED not in run.metrics
        return run.changed_ms

    changes: list[Callable[[], object]] = [
        lambda: place.send(run_id, robust_loss_gap=0.5),
        lambda: place.send(run_id, attempt="2"),
        lambda: place.send(run_id, state="running"),
        lambda: place.store.set_state(run_id, "failed", {"error": "boom"}),
    ]
    assert mark() == place.clock.now * 1000
    for change in changes:
        place.clock.now += 7
        change()
        assert mark() == place.clock.now * 1000


def test_more_tags_than_one_batch_holds(place: Place) -> None:
    run_id = place.new_run(0)
    place.send(run_id, **{f"tag{number}": str(number) for number in range(250)})
    (run,) = place.store.runs_by_id([run_id])
    assert all(run.tags[f"tag{number}"] == str(number) for number in range(250))


def test_exactly_these_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.IDS_AT_ONCE", 2)
    assert place.store.holds_exactly("x", [])
    ids = [place.new_run(index) for index in range(5)]
    assert place.store.holds_exactly("x", ids)
    assert not place.store.holds_exactly("x", ids[:4])
    assert not place.store.holds_exactly("x", [*ids, "f" * 32])
    assert not place.store.holds_exactly("x", [*ids[:4], "f" * 32])
    assert not place.store.holds_exactly("x", [])
    assert [run.run_id for run in place.store.runs_by_id([*ids[3:], "f" * 32])] == ids[3:]


def test_what_is_settled() -> None:
    def run(state: str, status: str, changed_ms: int = 1, **tags: str) -> TrialRun:
        return TrialRun.of("r", status, {"trial_id": "t", "state": state, **tags}, {}, {}, 0, changed_ms)

    assert settled(run("finished", "FINISHED")) and settled(run("finished", "FINISHED", 0))
    assert settled(run("pending", "SCHEDULED")) and not settled(run("pending", "SCHEDULED", 0))
    assert not settled(run("running", "RUNNING"))
    assert not settled(run("finished", "RUNNING")), "between two steps"
    assert not settled(run("finished", "FINISHED", **{layout.evaluated_tag("a"): "running"}))
    assert settled(run("finished", "FINISHED", **{layout.evaluated_tag("a"): "failed: boom"}))


def by_hand(place: Place, run_id: str, **tags: str) -> None:
    """As on MLflow's pages: without a mark."""
    for key, text in tags.items():
        place.store.client.set_tag(run_id, f"flatsweep.{key}", text)


def late(place: Place, run_id: str) -> None:
    """A worker whose clock is days late ends its trial otherwise."""
    place.clock.now -= 3 * 24 * 3600
    place.send(run_id, state="failed", error_class="diverged", error="boom")
    place.clock.now += 3 * 24 * 3600


BEHIND: dict[str, Callable[[Place, str], object]] = {
    "state": lambda place, run_id: by_hand(place, run_id, state="failed", error_class="out_of_memory"),
    "status": lambda place, run_id: place.store.client.set_terminated(run_id, status="KILLED"),
    "running": lambda place, run_id: place.store.client.update_run(run_id, status="RUNNING"),
    "evaluation": lambda place, run_id: by_hand(place, run_id, evaluation_id=OTHER.evaluation_id),
    "no state": lambda place, run_id: place.store.client.delete_tag(run_id, "flatsweep.state"),
    "another sweep's": lambda place, run_id: by_hand(place, run_id, sweep="y"),
    "deleted": lambda place, run_id: place.store.client.delete_run(run_id),
    "another in its place": lambda place, run_id: (place.store.client.delete_run(run_id), place.new_run(4)),
    "late clock": late,
}


@pytest.mark.parametrize("change", BEHIND)
def test_a_driver_sees_what_was_changed_behind_the_copy(change: str, place: Place) -> None:
    ids = [place.new_run(index) for index in range(6)]
    for run_id in ids[:5]:
        place.finish(run_id, robust_loss_gap=0.5)
    place.send(ids[5], state="failed", error_class="diverged", error="boom")
    look(place)
    place.clock.now += 3600
    place.finish(place.new_run(6), robust_loss_gap=0.5)  # so that the newest mark is far from theirs
    look(place)
    place.clock.now += 3600
    BEHIND[change](place, ids[2])
    assert LocalCopy(place.sweep, place.store).confirmed_runs() == place.store.trial_runs("x")
    assert confirmed_runs(place.sweep, place.store) == look(place) == place.store.trial_runs("x")


def test_the_class_of_an_error_is_confirmed(place: Place) -> None:
    run_id = place.new_run(0)
    place.send(run_id, state="failed", error_class="diverged", error="boom")
    look(place)
    by_hand(place, run_id, error_class="worker_lost")
    place.clock.now += 3600
    place.finish(place.new_run(1), robust_loss_gap=0.5)
    look(place)
    place.clock.now += 3600
    assert [run.error_class for run in confirmed_runs(place.sweep, place.store)] == ["worker_lost", ""]


def test_confirming_fetches_nothing_that_is_settled(place: Place, asked: dict[str, list[int]]) -> None:
    for index, words in enumerate([{"state": "finished"}, {"state": "failed", "error_class": "bad_data"}, {}]):
        place.send(place.new_run(index), **words)
    place.clock.now += 3600
    place.finish(place.new_run(3), robust_loss_gap=0.5)
    look(place)
    place.clock.now += 3600
    assert asked["trial_runs"] == [4]
    assert len(confirmed_runs(place.sweep, place.store)) == 4
    assert asked == {"trial_runs": [4], "changed_runs": [1], "runs_by_id": []}


def test_a_driver_without_a_copy_fetches_once(place: Place, asked: dict[str, list[int]]) -> None:
    place.finish(place.new_run(0), robust_loss_gap=0.5)
    assert len(confirmed_runs(place.sweep, place.store)) == 1
    assert asked == {"trial_runs": [1], "changed_runs": [], "runs_by_id": []}
