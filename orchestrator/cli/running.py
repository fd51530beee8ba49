"""Carrying out what changes a sweep (submit, rerun, evaluate): in this process, or as a job on a cluster."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.addresses import is_server
from orchestrator.cli.commands import (
    INTERRUPTED,
    existing_store,
    open_console,
    publish,
    report,
    report_evaluation,
    show_answer,
    stop_code,
)
from orchestrator.cluster.client import Cluster, is_cluster
from orchestrator.cluster.request import Request, parse_event
from orchestrator.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.analysis.answer import Answer
    from orchestrator.spec.loading import SweepFile


def carry_out_where(request: Request, address: str | None, detach: bool, wheel: Path | None) -> int:
    """Carries a request out where the address says; returns the exit code."""
    address = address or os.environ.get("RAY_ADDRESS")
    if is_cluster(address):
        return send(request, str(address), detach, wheel)
    for option, given in (("--detach", detach), ("--wheel", wheel)):
        if given:
            raise UserError(f"{option} is for a sweep on a cluster: give --address http://HEAD:8265 with it")
    return carry_out(request, address)


def carry_out(request: Request, address: str | None = None, started: Callable[[], None] | None = None) -> int:
    """Does here what a request asks; returns the exit code.

    Args:
        request: the command.
        address: of a Ray cluster that this machine is a node of; a local Ray if not given.
        started: called once everything was checked and the runs are made.
    """
    from orchestrator.submit import rerun_failed, submit

    file, options = request.file(), request.options
    console = open_console(err=options.as_json)
    if request.command == "evaluate":
        return _evaluate(request, address, started)
    prepare = None
    if request.command == "rerun":
        prepare = rerun_failed(frozenset(options.trials), options.error_class, options.from_scratch)
    done = submit(file, console, address=address, prepare=prepare, started=started, limits=options.limits)
    published, page = publish(file, done)
    code = report(file, done, page, options.as_json)
    if options.correlate and not done.interrupted:
        _show_answer(file, published)
    return code


def _show_answer(file: "SweepFile", published: "Answer | None") -> None:
    """Prints the sweep's answer; figures of what has not changed since are not drawn again."""
    from orchestrator.analysis.answer import ask, recorded
    from orchestrator.analysis.sources import refuse_mixed
    from orchestrator.evaluations import ANALYSIS
    from orchestrator.local_folder import local_folder

    folder = local_folder(file.sweep) / ANALYSIS
    store = existing_store(file)
    found = published or ask([(file.sweep, store)])
    if published is None and not _is_table(folder / "table.csv", found.table):
        found = recorded(found, file.sweep, store)
    refuse_mixed(found.mixtures)
    show_answer(found)
    if not found.files:
        open_console().print(f"as before: {folder}", highlight=False, markup=False, soft_wrap=True)


def _is_table(file: Path, table: "pd.DataFrame") -> bool:
    """Whether a file holds just this table."""
    return file.is_file() and file.read_text() == table.to_csv(index=False)


def _evaluate(request: Request, address: str | None, started: Callable[[], None] | None) -> int:
    from orchestrator.evaluations import measuring_plan, only_measuring
    from orchestrator.local_copy import confirmed_runs
    from orchestrator.submit import submit

    file, options, evaluation = request.file(), request.options, request.options.evaluation
    assert evaluation is not None  # noqa: S101
    store = existing_store(file)
    prepare = only_measuring(evaluation)
    console = open_console(err=options.as_json)
    done = submit(file, console, address=address, prepare=prepare, started=started, limits=options.limits)
    runs = confirmed_runs(file.sweep, store)
    code = report_evaluation(file, measuring_plan(file.sweep, evaluation, runs), runs, options.as_json)
    return stop_code(done) or code


def send(request: Request, address: str, detach: bool, wheel: Path | None) -> int:
    """Hands a request to a cluster and shows what its driver says; returns the driver's exit code.

    Args:
        request: the command.
        address: http(s)://host:port of the head.
        detach: return as soon as the cluster has checked everything and begun.
        wheel: of the code that is to run there.
    """
    _check_tracking(request)
    cluster = Cluster(address)
    err = open_console(err=True)
    job_id = cluster.start(request, wheel, err.width)
    err.print(f"job  {job_id} on {cluster.address}", highlight=False, markup=False, soft_wrap=True)
    try:
        return _shown(cluster, job_id, request, detach)
    except KeyboardInterrupt:
        words = f"{request.words} --address {cluster.address}"
        err.print(
            f"no longer watching; the sweep goes on. `flatsweep logs {words} --follow` shows it again, "
            f"`flatsweep cancel {words}` stops it",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        return INTERRUPTED


def _shown(cluster: Cluster, job_id: str, request: Request, detach: bool) -> int:
    with contextlib.closing(cluster.follow(job_id)) as lines:
        for line in lines:
            said = parse_event(line)
            if said is None:
                typer.echo(line, err=request.options.as_json)
            elif said["event"] == "refused":
                raise UserError(said["message"])
            elif said["event"] == "result":
                typer.echo(said["text"], nl=False)
            elif said["event"] == "started" and detach:
                return 0
    job = cluster.job(job_id)
    if job.exit_code is None:
        raise UserError(f"the job {job_id} ended as {job.state.lower()}: {job.message or 'no reason given'}")
    if job.exit_code == 127 or "No module named" in job.message:
        raise UserError(
            f"the cluster's python has no flatsweep ({job.message.splitlines()[-1]}): start Ray there in the "
            "environment that flatsweep is installed in"
        )
    return job.exit_code


def _check_tracking(request: Request) -> None:
    """Refuses a store that cannot serve a cluster or this client; one that only the cluster reaches is left to it."""
    from orchestrator.serving.probe import NO_ANSWER, server_problem
    from orchestrator.tracking_place import database_file, tracking_uri

    uri = tracking_uri(request.sweep)
    if database_file(uri) is not None:
        raise UserError(
            f"tracking: on a cluster every node must reach the store, and {uri} is a file; start an MLflow server "
            "(`flatsweep server`) and give its address by tracking.uri, --tracking-uri or MLFLOW_TRACKING_URI"
        )
    problem = server_problem(uri) if is_server(uri) else None
    if problem and not problem.startswith(NO_ANSWER):
        raise UserError(f"tracking: {problem}")
