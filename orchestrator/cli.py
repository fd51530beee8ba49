"""The command line. Each command parses, calls one function and prints; everything heavy is imported inside."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import __version__
from orchestrator.errors import UserError
from workers.failures import ErrorClass

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from orchestrator.plan import Plan
    from orchestrator.recorded import Places
    from orchestrator.spec.loading import SweepFile
    from orchestrator.submit import Submitted

app = typer.Typer(
    name="flatsweep",
    help="Grids of adversarial-training trials on Ray; flatness of the robust loss; everything in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULT_FILE = "experiments.yaml"
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
STATUS_COLUMNS = (
    *("trial_id", "method", "regularizer", "setting", "seed", "state", "attempt"),
    *("error_class", "error", "train_loss", "robust_loss_gap"),
)

SweepArgument = Annotated[str, typer.Argument(help="Sweep file, or the name of a sweep submitted before.")]
ProfileOption = Annotated[str | None, typer.Option(help="One of the sweep file's profiles, whose changes apply.")]
StorageOption = Annotated[Path | None, typer.Option(help="Storage folder, instead of the sweep file's.")]
TrackingOption = Annotated[str | None, typer.Option(help="MLflow tracking URI, instead of the sweep file's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster, host:port; RAY_ADDRESS if not given, a local Ray if neither is.")
]


class TableFormat(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


def main() -> None:
    """Entry point: a user's mistake is one message on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
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


@app.command()
def schema() -> None:
    """Print the JSON schema of the sweep file, for editors."""
    from orchestrator.spec.schema import sweep_schema

    typer.echo(json.dumps(sweep_schema(), indent=2))


@app.command()
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
    from orchestrator.plan import estimate
    from orchestrator.show import plan_sentence, plan_table, reasons

    _, made, runs = _planned(sweep, _places(storage, tracking_uri, profile))
    expected = estimate(made, runs)
    if as_json:
        _print_json(_plan_json(made) | {"trial_hours": expected.trial_hours if expected else None})
        return
    console = _console()
    console.print(plan_table(made))
    listed = [entry for entry in made.entries if every or entry.action.value != "done"]
    if listed:
        console.print(reasons(made, listed, len(listed) if every else 40))
    console.print(plan_sentence(made, expected), highlight=False)


@app.command()
def submit(
    sweep: SweepArgument = DEFAULT_FILE,
    address: AddressOption = None,
    then_correlate: Annotated[
        bool, typer.Option("--correlate", help="Afterwards print what `correlate` prints.")
    ] = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run whatever of the grid is not done yet. Submitting again runs nothing twice."""
    from orchestrator.recorded import open_sweep
    from orchestrator.submit import submit as run

    if then_correlate and as_json:
        raise UserError("--correlate and --json print two things at once; run `flatsweep correlate --json` afterwards")
    file = open_sweep(sweep, _places(storage, tracking_uri, profile))
    code = _report(file, run(file, _console(err=as_json), address=address), as_json)
    if then_correlate and code != INTERRUPTED:
        _show_answer(file)
    raise typer.Exit(code)


@app.command()
def rerun(
    sweep: SweepArgument = DEFAULT_FILE,
    trial: Annotated[
        list[str] | None, typer.Option(help="Id of a trial, or its first digits; may be repeated.")
    ] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only trials that failed in this way.")] = None,
    from_scratch: Annotated[bool, typer.Option(help="Put checkpoints and results aside and begin again.")] = False,
    address: AddressOption = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run failed trials again, from their last good checkpoint."""
    from orchestrator.recorded import open_sweep
    from orchestrator.submit import rerun_failed
    from orchestrator.submit import submit as run

    file = open_sweep(sweep, _places(storage, tracking_uri, profile))
    prepare = rerun_failed(frozenset(trial or ()), error_class.value if error_class else None, from_scratch)
    done = run(file, _console(err=as_json), address=address, prepare=prepare)
    raise typer.Exit(_report(file, done, as_json))


@app.command()
def status(
    sweep: SweepArgument = DEFAULT_FILE,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is done, running, failed and missing."""
    from orchestrator.driver import has_driver
    from orchestrator.show import status_table

    file, table = _table(sweep, _places(storage, tracking_uri, profile))
    counts = {str(state): int(count) for state, count in table["state"].value_counts().items()}
    shown = [column for column in STATUS_COLUMNS if column in table]
    alive = has_driver(file.sweep)
    if as_json:
        _print_json({"driver_alive": alive, "counts": counts, "trials": _records(table[shown])})
        return
    console = _console()
    console.print(status_table(_records(table[shown])))
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    if counts.get("running") and not alive:
        console.print("its driver is gone: `flatsweep submit` goes on from the checkpoints of what says 'running'")


@app.command()
def export(
    sweep: SweepArgument = DEFAULT_FILE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; standard output if not given.")] = None,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="By default the file's ending, else csv.")
    ] = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write one row per trial with all its settings, states and values."""
    from orchestrator.analysis.export import write_table

    _, table = _table(sweep, _places(storage, tracking_uri, profile))
    ending = output.suffix.removeprefix(".") if output else ""
    chosen = table_format or (TableFormat(ending) if ending in set(TableFormat) else TableFormat.CSV)
    write_table(table, chosen.value, output)
    if output:
        typer.echo(f"wrote {len(table)} rows to {output}", err=True)


@app.command()
def correlate(
    sweep: SweepArgument = DEFAULT_FILE,
    measure: Annotated[list[str] | None, typer.Option(help="Column; may be repeated. Default: all flatness.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Column; may be repeated. Default: gaps and test.")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder of the figures; by default in the sweep's folder.")
    ] = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correlate flatness with the robust generalisation gap, and draw it."""
    from orchestrator.recorded import open_sweep

    _show_answer(open_sweep(sweep, _places(storage, tracking_uri, profile)), measure, target, figures, as_json)


@app.command()
def ui(
    sweep: SweepArgument = DEFAULT_FILE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open MLflow's own pages on the sweep's store (on this machine only; Ctrl-C ends it)."""
    from orchestrator.recorded import open_sweep
    from orchestrator.ui import serve

    serve(open_sweep(sweep, _places(storage, tracking_uri, profile)).sweep, port)


def _places(storage: Path | None, tracking_uri: str | None, profile: str | None) -> "Places":
    from orchestrator.recorded import Places

    return Places(storage, tracking_uri, profile)


def _console(err: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=err)


def _planned(sweep: str, places: "Places") -> "tuple[SweepFile, Plan, list[Any]]":
    """The sweep, its plan and its recorded runs. Where no store was made yet, MLflow is not even imported."""
    from orchestrator.plan import make_plan
    from orchestrator.recorded import open_sweep
    from orchestrator.tracking import Store

    file = open_sweep(sweep, places)
    store = Store.existing(file.sweep)
    runs = store.trial_runs(file.sweep.name) if store else []
    return file, make_plan(file.sweep, runs), runs


def _existing_store(file: "SweepFile") -> Any:
    from orchestrator.tracking import Store, tracking_uri

    store = Store.existing(file.sweep)
    if store is None or store.experiment_id is None:
        raise UserError(
            f"nothing is recorded of sweep '{file.sweep.name}' in {tracking_uri(file.sweep)}; "
            f"`flatsweep submit {file.words}` starts it"
        )
    return store


def _table(sweep: str, places: "Places") -> "tuple[SweepFile, pd.DataFrame]":
    from orchestrator.analysis.table import trial_table
    from orchestrator.recorded import open_sweep

    file = open_sweep(sweep, places)
    return file, trial_table(file.sweep, _existing_store(file).trial_runs(file.sweep.name))


def _report(file: "SweepFile", done: "Submitted", as_json: bool) -> int:
    """Says what a submit or rerun did, and puts table and figures on the sweep's run if anything changed.

    Returns:
        The exit code: 0, 1 if trials failed, 130 if it was stopped.
    """
    from orchestrator.plan import Action
    from orchestrator.settings import trial_labels
    from orchestrator.show import plan_sentence, plan_table
    from orchestrator.tracking import tracking_uri

    if done.launched and done.after.counts()[Action.DONE]:
        from orchestrator.analysis.answer import publish

        publish(file.sweep, _existing_store(file))
    failed = [entry for entry in done.after.entries if entry.action is Action.FAILED]
    if as_json:
        _print_json({"launched": done.launched, "interrupted": done.interrupted} | _plan_json(done.after))
    else:
        console = _console()
        if not done.after.entries:
            console.print("no failed trial to run again")
            return 0
        console.print(plan_table(done.after))
        if not done.launched:
            console.print(plan_sentence(done.after, None), highlight=False)
        elif done.interrupted:
            console.print(f"stopped; `flatsweep submit {file.words}` goes on from here", highlight=False, markup=False)
        labels = trial_labels([entry.trial for entry in done.after.entries])
        for entry in failed:
            console.print(
                f"failed  {entry.trial_id}  {labels[entry.trial_id]}: {entry.reason}", highlight=False, markup=False
            )
        console.print(f"store  {tracking_uri(file.sweep)}", highlight=False, markup=False, soft_wrap=True)
    if done.interrupted:
        return INTERRUPTED
    return 1 if failed else 0


def _show_answer(
    file: "SweepFile",
    measures: list[str] | None = None,
    targets: list[str] | None = None,
    figures: Path | None = None,
    as_json: bool = False,
) -> None:
    """Correlates, writes table and figures, and prints all of it."""
    from orchestrator.analysis.answer import answer
    from orchestrator.analysis.render import render
    from orchestrator.tracking import tracking_uri

    found = answer(file.sweep, _existing_store(file), measures, targets, figures)
    if as_json:
        _print_json(found.as_dict())
        return
    console = _console()
    console.print(render(found.correlation))
    lines = [*found.notes, *(f"wrote  {path}" for path in found.files), f"store  {tracking_uri(file.sweep)}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _plan_json(made: "Plan") -> dict[str, Any]:
    from orchestrator.settings import setting_labels

    labels = setting_labels([entry.trial for entry in made.entries])
    settings = {entry.trial_id: label for entry, label in zip(made.entries, labels, strict=True)}
    return {
        "sweep": made.sweep.name,
        "counts": {action.value: count for action, count in made.counts().items()},
        "trials": [
            {
                "trial_id": entry.trial_id,
                "method": entry.trial.method.label(),
                "regularizer": entry.trial.regularizer_label,
                "setting": settings.get(entry.trial_id, ""),
                "seed": entry.trial.seed,
                "action": entry.action.value,
                "reason": entry.reason,
                "run_id": entry.run.run_id if entry.run else None,
            }
            for entry in made.entries
        ],
    }


def _records(table: "pd.DataFrame") -> Any:
    return json.loads(table.to_json(orient="records"))


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, allow_nan=False))
