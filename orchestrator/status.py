"""How a sweep stands: its table, what waits for what, and how much was done twice. Also while the store is away."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from orchestrator.addresses import is_server
from orchestrator.analysis.table import one_per_trial, read_table, trial_table
from orchestrator.driver import has_driver
from orchestrator.errors import StoreError
from orchestrator.evaluations import with_evaluation
from orchestrator.local_folder import stored_folder
from orchestrator.serving.probe import server_problem
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.stored import stored_trial_runs
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from orchestrator.waiting import Queue, short_duration, trial_waits
from workers.repeats import repeated_so_far
from workers.storage import Folder
from workers.unsent import noted

REPEATED, TRAINED = "cost_repeated_seconds", "cost_train_seconds"


@dataclass(frozen=True)
class Repeated:
    """What was done twice, as workers or drivers died."""

    seconds: float
    """Of training."""
    restarts: int
    """Times that a trial was taken up again."""
    trained_seconds: float
    """Of the training that counts, of trials that are trained."""

    def sentence(self) -> str:
        """`taken up again 5 times; 12 s of training were done twice, beside 4m10s that count`."""
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        twice = short_duration(self.seconds) if self.seconds >= 1 else f"{self.seconds:.1f} s"
        counts = short_duration(self.trained_seconds)
        return f"taken up again {times}; {twice} of training were done twice, beside {counts} that count"


@dataclass(frozen=True)
class Status:
    """How a sweep stands."""

    table: pd.DataFrame
    """With the column `waits_for`."""
    counts: dict[str, int]
    """Trials by state."""
    driver_alive: bool
    store_problem: str
    """Why the tracking store could not be asked; the table is then what the storage says. "" otherwise."""
    queue: Queue | None
    """Records that wait for the tracking store."""
    repeated: Repeated

    def as_dict(self) -> dict[str, Any]:
        """All but the table as plain data."""
        return {
            "driver_alive": self.driver_alive,
            "counts": self.counts,
            "store_problem": self.store_problem or None,
            "waiting": asdict(self.queue) if self.queue else None,
            "repeated": asdict(self.repeated),
        }


def sweep_status(file: SweepFile, open_store: Callable[[], Store], evaluation: str | None, fresh: bool) -> Status:
    """How a sweep stands now.

    Args:
        file: the sweep.
        open_store: gives its store.
        evaluation: first digits of the id of another evaluation than the sweep's own.
        fresh: fetch every run anew.

    Raises:
        StoreError: the store cannot be asked, and the storage is not seen from here either.
        UserError: nothing is recorded, or there is no such evaluation.
    """
    root = stored_folder(file.sweep)
    problem, driven = "", False
    try:
        _ask(file.sweep)
        store = open_store()
        table = read_table(with_evaluation(file.sweep, evaluation), store, fresh)
        driven = root is None and store.is_driven(file.sweep.name)
    except StoreError as error:
        if root is None or not root.names():
            raise
        sweep = with_evaluation(file.sweep, evaluation)
        table, problem = trial_table(sweep, stored_trial_runs(sweep)), str(error)
    # whoever does not see the storage believes the sweep's own run
    alive = has_driver(file.sweep) if root is not None else driven
    now_ms = int(time.time() * 1000)
    unsent = noted(root) if root is not None else {}
    trials = one_per_trial(table)
    waits = trial_waits(file.sweep, trials.to_dict("records"), unsent, alive, now_ms)
    table["waits_for"] = [waits.get(str(trial_id), "") for trial_id in table["trial_id"]]
    counts = {str(state): int(count) for state, count in trials["state"].value_counts().items()}
    return Status(table, counts, alive, problem, Queue.of(unsent.values(), now_ms), _repeated(trials, root))


def _ask(sweep: Sweep) -> None:
    """Finds out in seconds that a server is away; MLflow's client takes a minute."""
    uri = tracking_uri(sweep)
    if is_server(uri) and (problem := server_problem(uri)):
        raise StoreError(f"tracking: {problem}")


def _repeated(trials: pd.DataFrame, root: Folder | None) -> Repeated:
    none = pd.Series(float("nan"), trials.index)
    recorded = pd.to_numeric(trials.get(REPEATED, none), errors="coerce")
    going_on = trials.loc[recorded.isna() & (trials["attempt"] > 1), "trial_id"]
    more = sum(repeated_so_far(root / trial_id) for trial_id in going_on) if root is not None else 0.0
    trained = pd.to_numeric(trials.get(TRAINED, none), errors="coerce").sum()
    restarts = int((trials["attempt"] - 1).clip(lower=0).sum())
    return Repeated(float(recorded.sum()) + more, restarts, float(trained))
