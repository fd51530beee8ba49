"""What the tests of the control plane share."""

import pytest
from place import COMMIT, TEXT, Place

from orchestrator.spec.loading import load_sweep_file
from orchestrator.tracking import Store


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("store")
    (base / "s.yaml").write_text(TEXT + f"tracking: {{uri: 'sqlite:///{base}/m.db'}}\n")
    sweep = load_sweep_file(base / "s.yaml").sweep
    store = Store.of(sweep)
    store.prepare()
    return Place(store, sweep, store.open_parent(sweep, TEXT, COMMIT), base)


@pytest.fixture
def place(made: Place) -> Place:
    """The store, emptied, with a driver at work."""
    for run in made.store.trial_runs("x"):
        made.store.client.delete_run(run.run_id)
    for trial in made.sweep.trials():
        made.folder(trial).parent.delete(trial.trial_id)
    made.store.open_parent(made.sweep, TEXT, COMMIT)
    return made
