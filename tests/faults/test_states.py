"""Plan, submit, rerun, cancel, evaluate, sync and prune against a plain model of what becomes of trials.

A real SQLite store and a real folder; only the launch on Ray is replaced, by a part of a worker that trains nothing.
"""

import io
import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rich.console import Console
from state_model import EPOCHS, FATES, Known, loss, measured, play

from orchestrator import cancel
from orchestrator import submit as driver
from orchestrator.errors import UserError
from orchestrator.evaluations import measuring_plan, only_measuring
from orchestrator.launch import Outcome
from orchestrator.plan import Action, Plan, make_plan
from orchestrator.prune import prune
from orchestrator.sink import RunSink
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.sweep import Evaluation
from orchestrator.submit import Submitted, rerun_failed, submit
from orchestrator.sync import sync
from orchestrator.tracking import Store
from workers import layout
from workers.recorder import Recorder
from workers.storage import Folder
from workers.trial import close

NUMBERS = itertools.count()
OTHER = Evaluation.model_validate({"measures": [{"name": "robustness", "test_examples": 7}]})
GRIDS = ([0], [0, 1], [0, 1, 2], [1, 2])
SIZES = (10, 20)
"""Of test images: the two evaluations that the sweep file has in turn."""


class Sweeps(RuleBasedStateMachine):
    """One sweep and whatever its user and its machines do to it."""

    base: Path

    def __init__(self) -> None:
        super().__init__()
        self.name = f"s{next(NUMBERS)}"
        self.known: dict[str, Known] = {}
        self.others: set[str] = set()
        """Trials whose run says that `OTHER` was measured."""
        self.seeds, self.size = GRIDS[1], SIZES[0]
        self.fates: list[str] = []
        self.lost_store = False

    @initialize()
    def begin(self) -> None:
        self.write()
        self.store.prepare()

    def write(self) -> None:
        text = (
            f"name: {self.name}\nstorage: {self.base}\ntracking: {{uri: 'sqlite:///{self.base}/m.db'}}\n"
            "data: {name: digits, train_size: 60}\n"
            f"training: {{epochs: {EPOCHS}}}\ngrid: {{methods: [at], seeds: {self.seeds}}}\n"
            f"evaluation: {{measures: [{{name: robustness, test_examples: {self.size}}}]}}\n"
        )
        path = self.base / f"{self.name}.yaml"
        path.write_text(text)
        self.file: SweepFile = load_sweep_file(path)
        for trial in self.file.sweep.trials():
            self.known.setdefault(trial.trial_id, Known())

    @property
    def store(self) -> Store:
        return Store.of(self.file.sweep)

    @property
    def root(self) -> Folder:
        return Folder(str(self.base)) / self.name

    @property
    def wanted(self) -> str:
        return self.file.sweep.evaluation.evaluation_id

    @property
    def cells(self) -> list[str]:
        return [trial.trial_id for trial in self.file.sweep.trials()]

    def one(self, number: int) -> str:
        return self.cells[number % len(self.cells)]

    # a driver's work

    def launch(
        self,
        plan: Plan,
        record: Callable[[], Mapping[str, str]],
        _console: Any,
        _address: Any,
        store: Store,
        _limits: Any,
    ) -> Outcome:
        """In the place of `orchestrator.launch`: one trial after another meets its fate."""
        run_ids, lost, fates = record(), set(), []
        assert cancel.pending_requests(store, self.name) == cancel.Requests(), "meant for an earlier driver"
        for entry, fate in zip(plan.to_launch(), itertools.cycle(self.fates), strict=False):
            folder = self.root / entry.trial_id
            fates.append(fate)
            if plan.measure_only:
                self._measure(folder, RunSink(store.uri, run_ids[entry.trial_id], folder))
                continue
            play(entry, plan.sweep.evaluation, folder, store, run_ids[entry.trial_id], fate)
            if fate.startswith("dies"):
                lost.add(entry.trial_id)
            if fate == "cancelled":
                self._cancelled(store, entry.trial_id)
        if "interrupted" in fates:
            assert "requested, but" in cancel.cancel_sweep(store, self.name, 0)
            assert cancel.pending_requests(store, self.name).sweep
        return Outcome("signal" if "interrupted" in fates else None, frozenset(lost))

    def _cancelled(self, store: Store, trial_id: str) -> None:
        """By somebody else, while this driver runs; its worker has let go of it."""
        said = cancel.cancel_trials(store, self.name, [trial_id[:10]], 0)
        assert said.startswith(f"cancelled: {trial_id}")
        assert trial_id in cancel.pending_requests(store, self.name).trials

    def _measure(self, folder: Folder, sink: RunSink) -> None:
        with folder.lock(1):
            recorder = Recorder(folder, sink)
            measured(OTHER, folder)
            recorder.tags({layout.evaluated_tag(OTHER.evaluation_id): "finished"})
            close(recorder, 30)

    def drive(self, prepare: Any = None) -> Submitted:
        with mock.patch.object(driver, "launch", self.launch):
            return submit(self.file, Console(file=io.StringIO()), prepare=prepare)

    def expect(self, chosen: list[str]) -> list[str]:
        """The model's launch of trials; returns those that need a worker."""
        launched = [trial_id for trial_id in chosen if self.known[trial_id].action(self.wanted).launches]
        lost = {
            trial_id
            for trial_id, fate in zip(launched, itertools.cycle(self.fates), strict=False)
            if self.known[trial_id].act(fate, self.wanted)
        }
        if launched:
            for trial_id, one in self.known.items():
                one.close(lost=trial_id in lost)
        return launched

    def close_all(self) -> None:
        for one in self.known.values():
            one.close()

    def check_sent(self) -> None:
        """What was driven is recorded: there is nothing to sync."""
        if self.root.names():
            assert sync(self.file, dry_run=True).sent == []

    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=3))
    def submit(self, fates: list[str]) -> None:
        self.fates = fates
        self.close_all()
        launched = self.expect(self.cells)
        done = self.drive()
        assert [entry.trial_id for entry in done.plan.to_launch()] == launched
        assert done.launched == len(launched)
        self.check_sent()

    @rule()
    def submit_until_done(self) -> None:
        """Whatever came before: a submit in which nothing happens leaves nothing to do but what failed."""
        self.fates = ["finish"]
        self.close_all()
        launched = self.expect(self.cells)
        done = self.drive()
        assert done.launched == len(launched)
        assert not done.after.to_launch()
        again = self.drive()
        assert again.launched == 0 and all(entry.action in {Action.DONE, Action.FAILED} for entry in again.plan.entries)
        self.check_sent()

    @rule(
        fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=2),
        which=st.sampled_from(["all", "one", "class"]),
        number=st.integers(0, 2),
        from_scratch=st.booleans(),
        error_class=st.sampled_from(["diverged", "bad_data", "cancelled", "worker_lost"]),
    )
    def rerun(self, fates: list[str], which: str, number: int, from_scratch: bool, error_class: str) -> None:
        self.fates = fates
        self.close_all()
        name = self.one(number)
        chosen = []
        for trial_id in self.cells:
            one = self.known[trial_id]
            action = one.action(self.wanted)
            if which == "one":
                right = trial_id == name and (from_scratch or action is not Action.DONE)
            else:
                right = action is Action.FAILED and (which == "all" or one.error == error_class)
            if right:
                chosen.append(trial_id)
        for one in map(self.known.__getitem__, chosen):
            if from_scratch:
                one.lose_folder()
            if one.journal:
                one.told = "pending", "", one.told[2]
            if one.run is not None:
                one.run, one.error, one.asked_to_end = "pending", "", False
        launched = self.expect(chosen)
        names = frozenset({name[:10]}) if which == "one" else frozenset()
        done = self.drive(rerun_failed(names, error_class if which == "class" else None, from_scratch))
        assert [entry.trial_id for entry in done.plan.to_launch()] == launched
        self.check_sent()

    @rule()
    def evaluate(self) -> None:
        """Measured with other settings: trained trials alone, and each once."""
        self.fates = ["finish"]
        self.close_all()
        launched = []
        for trial_id in self.cells:
            one = self.known[trial_id]
            if one.run is None or one.epoch < EPOCHS:
                continue
            if OTHER.evaluation_id not in one.results or trial_id not in self.others:
                launched.append(trial_id)
                one.results.add(OTHER.evaluation_id)
                self.others.add(trial_id)
        if launched:
            self.close_all()
        done = self.drive(only_measuring(OTHER))
        assert [entry.trial_id for entry in done.plan.to_launch()] == launched
        runs = self.store.trial_runs(self.name)
        assert not measuring_plan(self.file.sweep, OTHER, runs).to_launch()

    # what others do

    @rule(seeds=st.sampled_from(GRIDS), size=st.sampled_from(SIZES))
    def edit(self, seeds: list[int], size: int) -> None:
        self.seeds, self.size = seeds, size
        self.write()

    @rule(number=st.integers(0, 2))
    def cancel_one(self, number: int) -> None:
        """While nobody drives the sweep; one that has not ended, if there is any."""
        open_ones = [name for name in self.cells if self.known[name].run not in {None, "finished", "failed"}]
        name = open_ones[number % len(open_ones)] if open_ones else self.one(number)
        one = self.known[name]
        if one.run in {None, "finished", "failed"}:
            with pytest.raises(UserError, match=r"no recorded trial|nothing to cancel"):
                cancel.cancel_trials(self.store, self.name, [name], 0)
        else:
            assert "the next submit leaves out" in cancel.cancel_trials(self.store, self.name, [name], 0)
            one.asked_to_end = True

    @rule()
    def cancel_all(self) -> None:
        with pytest.raises(UserError, match="nobody runs sweep"):
            cancel.cancel_sweep(self.store, self.name, 0)

    @rule(number=st.integers(0, 2))
    def driver_is_killed(self, number: int) -> None:
        """While a worker has a trial, which then dies too."""
        name = self.one(number)
        one = self.known[name]
        runs = {run.trial_id: run.run_id for run in self.store.trial_runs(self.name)}
        if one.run is None or not one.action(self.wanted).launches:
            return
        folder = self.root / name
        recorder = Recorder(folder, RunSink(self.store.uri, runs[name], folder))
        recorder.state("running")
        recorder.tags({"error_class": "", "error": ""})
        close(recorder, 30)
        one.journal, one.told, one.run, one.error = True, ("running", "", one.told[2]), "running", ""

    @rule(number=st.integers(0, 2))
    def folder_is_lost(self, number: int) -> None:
        name = self.one(number)
        shutil.rmtree(Path(self.root.url) / name, ignore_errors=True)
        self.known[name].lose_folder()

    @precondition(lambda self: any(one.run for one in self.known.values()))
    @rule(lost=st.booleans())
    def synced(self, lost: bool) -> None:
        """The store is lost, or is not; `sync` makes of it what the journals say, and has nothing to do again."""
        if lost:
            for run in self.store.trial_runs(self.name):
                self.store.client.delete_run(run.run_id)
            self.store.client.delete_run(self.store.parent_run(self.name))
        done = sync(self.file)
        for trial_id, one in self.known.items():
            if one.journal and (one.exists or trial_id in self.cells):
                asked = one.asked_to_end and not lost
                before = ("", set[int]()) if lost else (one.evaluated, one.recorded)
                one.rebuild()
                one.asked_to_end = asked
                # what an earlier life of the trial left at its run stays there
                one.evaluated, one.recorded = one.evaluated or before[0], one.recorded | before[1]
            elif lost:
                one.rebuild()
                one.run, one.error, one.evaluated, one.recorded = None, "", "", set()
            if lost and OTHER.evaluation_id not in one.results:
                self.others.discard(trial_id)
        assert {sent.trial_id for sent in done.sent if sent.is_new} <= set(self.known)
        again = sync(self.file)
        assert not again.changed

    @rule(keep=st.sampled_from([None, "last", "all"]))
    def pruned(self, keep: str | None) -> None:
        """Nothing that the plan rests on goes."""
        if self.root.names():
            prune(self.file.sweep, keep)
            assert not prune(self.file.sweep, keep).removals

    # what always holds

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        runs = self.store.trial_runs(self.name)
        by_id = {run.trial_id: run for run in runs}
        assert len(by_id) == len(runs), "several runs of one trial"
        assert {trial_id: run.state for trial_id, run in by_id.items()} == {
            trial_id: one.run for trial_id, one in self.known.items() if one.run is not None
        }
        for trial_id, run in by_id.items():
            one = self.known[trial_id]
            assert (run.status == "RUNNING") is (one.run == "running"), "running, and nobody has it"
            assert (run.error_class, run.evaluation_id) == (one.error, one.evaluated)
            if one.recorded:
                assert run.metrics["train/loss"] == loss(max(one.recorded)), "a value was lost"

    @invariant()
    def the_plan_is_the_models(self) -> None:
        plan = make_plan(self.file.sweep, self.store.trial_runs(self.name))
        assert {entry.trial_id: entry.action for entry in plan.entries} == {
            trial_id: self.known[trial_id].action(self.wanted) for trial_id in self.cells
        }

    def teardown(self) -> None:
        """Every value of every epoch is there, once."""
        for run in self.store.trial_runs(self.name):
            points = self.store.history(run.run_id, "train/loss")
            recorded = self.known[run.trial_id].recorded
            assert sorted((point.step, point.value) for point in points) == [
                (epoch, loss(epoch)) for epoch in sorted(recorded)
            ]


def run(base: Path, examples: int, steps: int) -> None:
    machine = type("Machine", (Sweeps,), {"base": base})
    checks = list(HealthCheck)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks,
            derandomize=True, database=None,
        ),
    )  # fmt: skip


def test_a_few_lives_of_a_sweep(tmp_path: Path) -> None:
    run(tmp_path, 4, 8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_lives_of_a_sweep(tmp_path: Path) -> None:
    run(tmp_path, 150, 25)
