"""Runs that a server made twice: it made one, its answer was lost on the way, and MLflow's client asked again."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from orchestrator.sink import TAG, set_status
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun


def without_twins(store: Store, runs: Sequence[TrialRun], known: Collection[str] = ()) -> list[TrialRun]:
    """The runs but twins: those that never began, beside another run of the same trial. They are deleted in the store.

    Args:
        store: that has them.
        runs: of trials, oldest first.
        known: ids of runs that somebody works with, and which stay.
    """
    alike = defaultdict[str, list[TrialRun]](list)
    for run in runs:
        alike[run.trial_id].append(run)
    twins = set[str]()
    for group in alike.values():
        empty = [run.run_id for run in group if _never_began(run) and run.run_id not in known]
        twins.update(empty if len(empty) < len(group) else empty[1:])
    _delete(store, twins)
    return [run for run in runs if run.run_id not in twins]


def drop_twins(store: Store, sweep_name: str, parent: str, run_ids: Collection[str], count: int) -> None:
    """Deletes the twins of the sweep's own run and of its trials' runs.

    Args:
        store: that has them.
        sweep_name: of the sweep.
        parent: its own run.
        run_ids: of the trials' runs that somebody works with.
        count: how many runs its trials have: where the store has so many, there is no twin among them.
    """
    others = (run for run in store.parents(sweep_name) if run.info.run_id != parent)
    _delete(store, {str(run.info.run_id) for run in others if TAG + "state" not in run.data.tags})
    if store.count_differs(sweep_name, count):
        without_twins(store, store.trial_runs(sweep_name), run_ids)


def _never_began(run: TrialRun) -> bool:
    return run.state == "pending" and not run.tags.get("attempt") and not run.metrics


def _delete(store: Store, run_ids: Collection[str]) -> None:
    with store.reached():
        for run_id in sorted(run_ids):
            set_status(store.client, run_id, "interrupted")  # it was made RUNNING, and may be looked at in the trash
            store.client.delete_run(run_id)
