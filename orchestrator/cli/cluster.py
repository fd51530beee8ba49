"""Commands on a sweep that runs elsewhere: its log, and its end. Each parses, calls one function and prints."""

import os
from typing import Annotated

import typer

from orchestrator.cli.commands import existing_store, open_console, places
from orchestrator.cli.options import (
    DEFAULT_FILE,
    AddressOption,
    ProfileOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
)
from orchestrator.errors import UserError

group = typer.Typer()


@group.command()
def logs(
    sweep: SweepArgument = DEFAULT_FILE,
    trial: Annotated[
        str | None, typer.Argument(help="Id of a trial, or its first digits; the driver's output if not given.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it comes, until the end.")] = False,
    address: AddressOption = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Print what happened in a trial, or what the sweep's driver on a cluster has said."""
    from orchestrator.recorded import open_sweep
    from orchestrator.trial_log import follow as followed
    from orchestrator.trial_log import lines, traceback_of, trial_records

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    if trial is None:
        _driver_log(file.sweep.name, address, follow)
        return
    store = existing_store(file)
    found = [run for run in store.trial_runs(file.sweep.name) if run.trial_id.startswith(trial)]
    if len(found) != 1:
        which = ", ".join(run.trial_id for run in found)
        raise UserError(
            f"several trials of '{file.sweep.name}' have ids that begin with {trial}: {which}"
            if found
            else f"no recorded trial of '{file.sweep.name}' has an id that begins with {trial}"
        )
    run = found[0]
    shown = followed(file.sweep, store, run) if follow else lines(trial_records(file.sweep, store, run))
    for line in shown:
        typer.echo(line)
    if text := traceback_of(file.sweep, store.runs_by_id([run.run_id])[0]):
        typer.echo(text)


def _driver_log(sweep_name: str, address: str | None, follow: bool) -> None:
    from orchestrator.cluster.client import Cluster, is_cluster
    from orchestrator.cluster.request import parse_event

    address = address or os.environ.get("RAY_ADDRESS")
    if not is_cluster(address):
        raise UserError("a driver's output is where it was started; give a trial's id, or --address http://HEAD:8265")
    cluster = Cluster(str(address))
    jobs = cluster.jobs(sweep_name)
    if not jobs:
        raise UserError(f"the cluster at {address} knows no job of sweep '{sweep_name}'")
    job = jobs[-1]
    for line in cluster.follow(job.job_id) if follow else cluster.log(job.job_id):
        if (said := parse_event(line)) is None:
            typer.echo(line)
        elif said["event"] == "refused":
            typer.echo(f"refused: {said['message']}")
    typer.echo(f"job {job.job_id}: {cluster.job(job.job_id).state.lower()}", err=True)


@group.command()
def cancel(
    sweep: SweepArgument = DEFAULT_FILE,
    trials: Annotated[
        list[str] | None, typer.Argument(help="Ids of trials, or their first digits; the whole sweep if not given.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is over.")] = 120.0,
    force: Annotated[
        bool, typer.Option("--force", help="With http://: end the driver at once; trials lose their epoch.")
    ] = False,
    address: AddressOption = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Stop a running sweep, or some of its trials, from anywhere. What runs saves a checkpoint first."""
    from orchestrator.cancel import cancel_sweep, cancel_trials, kill_driver
    from orchestrator.recorded import open_sweep

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    address = address or os.environ.get("RAY_ADDRESS")
    if force:
        said = kill_driver(file.sweep.name, address)
    elif trials:
        said = cancel_trials(existing_store(file), file.sweep.name, trials, timeout)
    else:
        said = cancel_sweep(existing_store(file), file.sweep.name, timeout)
    open_console().print(said, highlight=False, markup=False, soft_wrap=True)
