"""A sweep recorded in a real Postgres: the copy and what a driver is told are what the store holds."""

from collections.abc import Iterator

import pytest

from orchestrator.local_copy import LocalCopy, confirmed_runs
from orchestrator.plan import Action, make_plan
from orchestrator.sink import RunSink
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from tests.postgres import NO_PROGRAMS, private_postgres, programs
from workers.journal import Record

pytestmark = [pytest.mark.slow, pytest.mark.skipif(programs() is None, reason=NO_PROGRAMS)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    base = tmp_path_factory.mktemp("postgres")
    with private_postgres() as server:
        uri = server.database("mlflow")
        (base / "s.yaml").write_text("name: x\ngrid: {methods: [at, trades], seeds: [0, 1]}\n")
        (base / "runs" / "x").mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:  # a password may stand in no sweep file
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            yield load_sweep_file(base / "s.yaml").sweep


def test_copy_and_driver_see_what_postgres_holds(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.of(sweep)
    store.prepare()
    parent = store.open_parent(sweep, "", "")
    ids = [store.create_trial_run(trial, sweep.evaluation, "x", parent, "") for trial in sweep.trials()]
    for value, run_id in enumerate(ids):
        records = [Record("metric", "robust_loss_gap", value=value / 8), Record("state", "state", text="finished")]
        RunSink(store.uri, run_id).send(records)
    assert [run.metrics["robust_loss_gap"] for run in confirmed_runs(sweep, store)] == [0, 0.125, 0.25, 0.375]
    with monkeypatch.context() as nothing_fetched:
        nothing_fetched.setattr(store, "trial_runs", lambda _: pytest.fail("everything was fetched"))
        assert len(confirmed_runs(sweep, store)) == 4
    store.client.set_tag(ids[1], "flatsweep.state", "failed")
    store.client.set_tag(ids[1], "flatsweep.error_class", "diverged")
    store.client.delete_run(ids[2])
    runs = confirmed_runs(sweep, store)
    assert runs == store.trial_runs("x") == LocalCopy(sweep, store).trial_runs()
    assert make_plan(sweep, runs).counts() == {Action.FAILED: 1, Action.RUN: 3}  # no trial has a folder
