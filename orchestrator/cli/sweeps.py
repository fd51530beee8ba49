"""Commands that make, run and watch a sweep. Each parses, calls one function and prints."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.commands import (
    existing_store,
    open_console,
    places,
    plan_json,
    planned,
    print_json,
    records,
    show_cost,
)
from orchestrator.cli.options import (
    DEFAULT_FILE,
    AddressOption,
    DetachOption,
    EvaluationOption,
    FreshOption,
    JsonOption,
    MaxConcurrentOption,
    MaxHoursOption,
    PriorityOption,
    ProfileOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
    WheelOption,
)
from orchestrator.errors import UserError
from orchestrator.limits import Limits
from workers.failures import ErrorClass

group = typer.Typer()

STATUS_COLUMNS = (
    *("trial_id", "checkpoint", "epoch", "method", "regularizer", "setting", "seed", "state", "attempt"),
    *("error_class", "error", "train_loss", "robust_loss_gap", "waits_for"),
)


@group.command()
def init(
    path: Annotated[
        Path | None, typer.Argument(help=f"File to write; {DEFAULT_FILE}, or RECIPE.yaml, if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A paper's sweep instead: stutz21, wu20, li22, wci24 or overfitting.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a commented sweep file to start from."""
    from orchestrator.spec.starter import recipe_text, starter_text

    text = recipe_text(recipe) if recipe else starter_text()
    path = path or Path(f"{recipe}.yaml" if recipe else DEFAULT_FILE)
    if path.exists() and not force:
        raise UserError(f"{path} exists already; --force overwrites it")
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    small = " (--profile small for a form that takes minutes)" if recipe else ""
    typer.echo(f"wrote {path}; next: flatsweep plan {path}{small}")


@group.command()
def schema() -> None:
    """Print the JSON schema of the sweep file, for editors."""
    from orchestrator.spec.schema import sweep_schema

    typer.echo(json.dumps(sweep_schema(), indent=2))


@group.command()
def plan(
    sweep: SweepArgument = DEFAULT_FILE,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every trial with its reason, not only the first 40.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a submit would run, resume or skip, and why. Starts and writes nothing."""
    from orchestrator.cost import costs
    from orchestrator.plan import estimate
    from orchestrator.show import cost_table, plan_sentence, plan_table, reasons

    _, made, runs = planned(sweep, places(storage, tracking_uri, profile))
    expected = estimate(made, runs)
    if as_json:
        print_json(plan_json(made) | {"trial_hours": expected.trial_hours if expected else None})
        return
    out = open_console()
    out.print(plan_table(made))
    listed = [entry for entry in (*made.teachers, *made.entries) if every or entry.action.value != "done"]
    if listed:
        out.print(reasons(made, listed, len(listed) if every else 40))
    out.print(plan_sentence(made, expected), highlight=False)
    if measuring := costs(made, runs):
        out.print(cost_table(measuring))


@group.command()
def submit(
    sweep: SweepArgument = DEFAULT_FILE,
    address: AddressOption = None,
    detach: DetachOption = False,
    wheel: WheelOption = None,
    max_concurrent: MaxConcurrentOption = None,
    max_hours: MaxHoursOption = None,
    priority: PriorityOption = 0,
    then_correlate: Annotated[
        bool, typer.Option("--correlate", help="Afterwards print what `correlate` prints.")
    ] = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run whatever of the grid is not done yet. Submitting again runs nothing twice."""
    from orchestrator.cli.running import carry_out_where
    from orchestrator.cluster.request import Options, Request
    from orchestrator.recorded import open_sweep

    if then_correlate and as_json:
        raise UserError("--correlate and --json print two things at once; run `flatsweep correlate --json` afterwards")
    limits = Limits(max_concurrent, max_hours, priority)
    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    options = Options(correlate=then_correlate, limits=limits, as_json=as_json)
    raise typer.Exit(carry_out_where(Request.of("submit", file, options), address, detach, wheel))


@group.command()
def rerun(
    sweep: SweepArgument = DEFAULT_FILE,
    trial: Annotated[
        list[str] | None, typer.Option(help="Id of a trial, or its first digits; may be repeated.")
    ] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only trials that failed in this way.")] = None,
    from_scratch: Annotated[bool, typer.Option(help="Put checkpoints and results aside and begin again.")] = False,
    address: AddressOption = None,
    detach: DetachOption = False,
    wheel: WheelOption = None,
    max_concurrent: MaxConcurrentOption = None,
    max_hours: MaxHoursOption = None,
    priority: PriorityOption = 0,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run failed trials again, from their last good checkpoint."""
    from orchestrator.cli.running import carry_out_where
    from orchestrator.cluster.request import Options, Request
    from orchestrator.recorded import open_sweep

    limits = Limits(max_concurrent, max_hours, priority)
    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    failed = error_class.value if error_class else None
    options = Options(
        trials=tuple(trial or ()), error_class=failed, from_scratch=from_scratch, limits=limits, as_json=as_json
    )
    raise typer.Exit(carry_out_where(Request.of("rerun", file, options), address, detach, wheel))


@group.command()
def evaluate(
    sweep: SweepArgument = DEFAULT_FILE,
    measures: Annotated[
        str | None, typer.Option(help="Measures by name, with commas, or a YAML list; those of the sweep if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as draws=20 or robustness.attack.steps=50.")
    ] = None,
    checkpoints: Annotated[str | None, typer.Option(help="Networks: last, best, kept, with commas.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of random starts and directions.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    address: AddressOption = None,
    detach: DetachOption = False,
    wheel: WheelOption = None,
    max_concurrent: MaxConcurrentOption = None,
    max_hours: MaxHoursOption = None,
    priority: PriorityOption = 0,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure trained trials again with other settings, beside what is recorded. Trains nothing."""
    from orchestrator.cli.running import carry_out_where
    from orchestrator.cluster.request import Options, Request
    from orchestrator.evaluations import Changes, changed, measuring_plan
    from orchestrator.local_copy import LocalCopy
    from orchestrator.recorded import open_sweep

    limits = Limits(max_concurrent, max_hours, priority)
    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    evaluation = changed(file.sweep, Changes(measures, tuple(settings or ()), checkpoints, seed))
    store = existing_store(file)
    if dry_run:
        runs = LocalCopy(file.sweep, store).confirmed_runs()
        show_cost(measuring_plan(file.sweep, evaluation, runs), runs, as_json)
        return
    options = Options(evaluation=evaluation, limits=limits, as_json=as_json)
    raise typer.Exit(carry_out_where(Request.of("evaluate", file, options), address, detach, wheel))


@group.command()
def status(
    sweep: SweepArgument = DEFAULT_FILE,
    evaluation: EvaluationOption = None,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is done, running, failed and missing, and what waits for what.

    While the tracking store is away, what the storage knows is shown.
    """
    from orchestrator.recorded import open_sweep
    from orchestrator.show import show_status
    from orchestrator.status import sweep_status

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    found = sweep_status(file, lambda: existing_store(file), evaluation, fresh)
    table = found.table[found.table["checkpoint"].isin(["last", "best"])]  # curves are for `export`
    rows = records(table[[column for column in STATUS_COLUMNS if column in table]])
    if as_json:
        print_json(found.as_dict() | {"trials": rows})
    else:
        show_status(found, rows, open_console())
