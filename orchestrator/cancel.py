"""Stopping a sweep, or some of its trials, from any machine that reaches the tracking store.

Whoever cancels leaves a request at the run; the sweep's driver looks for requests every few seconds. Ray's own way to
stop a job gives its driver three seconds, too few for trials to save their checkpoints.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType

from orchestrator.errors import UserError
from orchestrator.sink import log_changes
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun

logger = logging.getLogger(__name__)

TAG = "cancel"
"""The tag of a request, at a trial's run or at the sweep's own."""
REQUESTED, DONE = "requested", ""
LOOK_SECONDS = 3.0


@dataclass(frozen=True)
class Requests:
    """What somebody wants stopped."""

    sweep: bool = False
    trials: frozenset[str] = frozenset()
    """Ids."""


def pending_requests(store: Store, sweep_name: str) -> Requests:
    """The requests that no driver has answered yet."""
    tags = [run.data.tags for run in store.tagged(sweep_name, TAG, REQUESTED)]
    trials = frozenset(tag["flatsweep.trial_id"] for tag in tags if tag.get("flatsweep.kind") == "trial")
    return Requests(any(tag.get("flatsweep.kind") == "sweep" for tag in tags), trials)


class Watch:
    """Looks for requests in a thread of its own while a driver runs.

    Args:
        store: of the sweep.
        sweep_name: its name.
        heard: called with what is wanted, each time that anything is.
    """

    def __init__(self, store: Store, sweep_name: str, heard: Callable[[Requests], None]) -> None:
        self._store, self._name, self._heard = store, sweep_name, heard
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="flatsweep-cancel", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                wanted = pending_requests(self._store, self._name)
            except UserError as error:  # the store is away for a while: the sweep goes on without it
                logger.info("cannot look for requests to cancel: %s", error)
                continue
            if wanted.sweep or wanted.trials:
                self._heard(wanted)


def request(store: Store, run_ids: Sequence[str]) -> None:
    """Leaves a request at runs."""
    for run_id in run_ids:
        log_changes(store.client, run_id, tags={TAG: REQUESTED})


def answer(store: Store, run_ids: Collection[str]) -> None:
    """Takes the requests away again."""
    for run_id in run_ids:
        log_changes(store.client, run_id, tags={TAG: DONE})


def chosen(runs: Sequence[TrialRun], names: Sequence[str], sweep_name: str) -> list[TrialRun]:
    """The runs of the trials whose ids begin with `names`.

    Raises:
        UserError: there is no such trial, or all of these have ended.
    """
    unknown = [name for name in names if not any(run.trial_id.startswith(name) for run in runs)]
    if unknown:
        raise UserError(f"no recorded trial of '{sweep_name}' has an id that begins with {', '.join(unknown)}")
    named = [run for run in runs if any(run.trial_id.startswith(name) for name in names)]
    running = [run for run in named if run.state not in {"finished", "failed"}]
    if not running:
        raise UserError(f"nothing to cancel: {', '.join(f'{run.trial_id} is {run.state}' for run in named)}")
    return running


def cancel_trials(store: Store, sweep_name: str, names: Sequence[str], timeout: float) -> str:
    """Cancels trials; returns what became of it, in words.

    Args:
        store: of the sweep.
        sweep_name: its name.
        names: ids of trials, or their first digits.
        timeout: seconds to wait for the driver.

    Raises:
        UserError: no such trial, or nothing of them to cancel.
    """
    runs = chosen(store.trial_runs(sweep_name), names, sweep_name)
    request(store, [run.run_id for run in runs])
    ids = ", ".join(run.trial_id for run in runs)
    if not store.is_driven(sweep_name):
        return f"nobody runs sweep '{sweep_name}' now; the next submit leaves out {ids}"

    def over() -> bool:
        found = store.runs_by_id([run.run_id for run in runs])
        return all(run.state in {"finished", "failed", "interrupted"} for run in found)

    if _wait(over, timeout):
        return f"cancelled: {ids}; `flatsweep rerun --trial` takes them up again from their checkpoints"
    return f"requested, but still running after {timeout:.0f} s: {ids}; its driver ends them when it hears of it"


def cancel_sweep(store: Store, sweep_name: str, timeout: float) -> str:
    """Stops a sweep's driver in good order; returns what became of it, in words.

    Raises:
        UserError: nobody runs the sweep.
    """
    parent = store.parent_run(sweep_name)
    if parent is None or not store.is_driven(sweep_name):
        raise UserError(f"nothing to cancel: nobody runs sweep '{sweep_name}' now")
    request(store, [parent])
    if _wait(lambda: not store.is_driven(sweep_name), timeout):
        return f"sweep '{sweep_name}' is stopped; `flatsweep submit` goes on from its checkpoints"
    return (
        f"requested, but sweep '{sweep_name}' still runs after {timeout:.0f} s: its driver may have died "
        "(the next submit tidies up), or give --address and --force to end it on the cluster"
    )


def kill_driver(sweep_name: str, address: str | None) -> str:
    """Ends the job of a sweep on a cluster by force; returns what became of it, in words.

    Raises:
        UserError: no such cluster, or it runs no job of the sweep.
    """
    from orchestrator.cluster.client import Cluster, is_cluster

    if not is_cluster(address):
        raise UserError("--force ends a job on a cluster: give --address http://HEAD:8265 with it")
    cluster = Cluster(str(address))
    job = cluster.running(sweep_name)
    if job is None:
        raise UserError(f"nothing to cancel: the cluster at {address} runs no job of sweep '{sweep_name}'")
    cluster.stop(job.job_id)
    return f"job {job.job_id} is being killed; the next submit goes on from the trials' last checkpoints"


def _wait(look: Callable[[], bool], timeout: float) -> bool:
    """Whether `look` said yes within `timeout` seconds."""
    until = time.monotonic() + timeout
    while not look():
        if time.monotonic() > until:
            return False
        time.sleep(1.0)
    return True
