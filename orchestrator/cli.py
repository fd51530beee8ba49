"""The command line. Each command parses, calls one function and prints; everything heavy is imported inside."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.commands import (
    INTERRUPTED,
    chosen_format,
    existing_store,
    open_console,
    places,
    plan_json,
    planned,
    print_json,
    recorded_table,
    records,
    report,
    report_evaluation,
    show_answer,
    show_comparison,
    show_cost,
    show_measured,
    show_report,
)
from orchestrator.errors import UserError
from orchestrator.options import (
    AddressOption,
    AllowMixedOption,
    ByOption,
    CorrelationFormat,
    CorrelationFormatOption,
    EvaluationOption,
    FigureOption,
    FiguresOption,
    FreshOption,
    JsonOption,
    MinEffectiveOption,
    Preset,
    ProfileOption,
    StorageOption,
    SweepArgument,
    TableFormat,
    TrackingOption,
    WhereOption,
)
from workers.failures import ErrorClass

app = typer.Typer(
    name="flatsweep",
    help="Grids of adversarial-training trials on Ray; flatness of the robust loss; everything in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULT_FILE = "experiments.yaml"
STATUS_COLUMNS = (
    *("trial_id", "checkpoint", "epoch", "method", "regularizer", "setting", "seed", "state", "attempt"),
    *("error_class", "error", "train_loss", "robust_loss_gap"),
)


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
    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    code = report(file, run(file, open_console(err=as_json), address=address), as_json)
    if then_correlate and code != INTERRUPTED:
        show_answer(file)
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

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    prepare = rerun_failed(frozenset(trial or ()), error_class.value if error_class else None, from_scratch)
    done = run(file, open_console(err=as_json), address=address, prepare=prepare)
    raise typer.Exit(report(file, done, as_json))


@app.command()
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
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure trained trials again with other settings, beside what is recorded. Trains nothing."""
    from orchestrator.evaluations import Changes, changed, measuring_plan, only_measuring
    from orchestrator.recorded import open_sweep
    from orchestrator.submit import submit as run

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    evaluation = changed(file.sweep, Changes(measures, tuple(settings or ()), checkpoints, seed))
    store = existing_store(file)
    if dry_run:
        runs = store.trial_runs(file.sweep.name)
        show_cost(measuring_plan(file.sweep, evaluation, runs), runs, as_json)
        return
    done = run(file, open_console(err=as_json), address=address, prepare=only_measuring(evaluation))
    runs = store.trial_runs(file.sweep.name)
    code = report_evaluation(file, measuring_plan(file.sweep, evaluation, runs), runs, as_json)
    raise typer.Exit(INTERRUPTED if done.interrupted else code)


@app.command()
def measure(
    model: Annotated[str, typer.Option(help="package.module:function, which returns the network.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="State dict, or safetensors; the function's own weights if not given.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images by name, or as in a sweep file: '{name: npz, path: x.npz}'.")
    ] = None,
    measures: Annotated[
        str | None, typer.Option(help="Measures by name, with commas, or a YAML list; robustness and flatness.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as draws=20 or robustness.attack.steps=50.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="Settings that --measures does not give.")] = None,
    attack: Annotated[
        str | None, typer.Option(help="In the place of the training attack, such as '{eps: 8/255}', the default.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Of pixels in [0, 1] per channel, with commas; none: 0.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise, the deviation; none: 1.")] = None,
    model_args: Annotated[str | None, typer.Option(help="Keywords of the function: '{num_classes: 10}'.")] = None,
    key: Annotated[str | None, typer.Option(help="Of the state dict, where the checkpoint has several.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of random starts and directions; 0.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one.")] = None,
    record_in: Annotated[
        str | None,
        typer.Option(help="Sweep file or name: measure as this sweep does, and record it beside it."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="What the sweep's tables call the network.")] = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a network that was trained elsewhere: any image classifier, no sweep needed."""
    from orchestrator.evaluations import Changes
    from orchestrator.external import Request, measure_alone, measure_beside
    from orchestrator.recorded import open_sweep

    chosen = Changes(measures, tuple(settings or ()), None, seed, preset.value if preset else None)
    request = Request(model, model_args, checkpoint, key, mean, std, data, attack, chosen, device, label)
    if record_in is None:
        show_measured(measure_alone(request, open_console(err=True)), None, as_json)
        return
    file = open_sweep(record_in, places(storage, tracking_uri, profile))
    show_measured(measure_beside(request, file, existing_store(file), open_console(err=True)), file, as_json)


@app.command()
def status(
    sweep: SweepArgument = DEFAULT_FILE,
    evaluation: EvaluationOption = None,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is done, running, failed and missing."""
    from orchestrator.analysis.table import one_per_trial
    from orchestrator.driver import has_driver
    from orchestrator.show import status_table

    file, table = recorded_table(sweep, places(storage, tracking_uri, profile), evaluation, fresh)
    counts = {str(state): int(count) for state, count in one_per_trial(table)["state"].value_counts().items()}
    shown = [column for column in STATUS_COLUMNS if column in table]
    table = table[table["checkpoint"].isin(["last", "best"])]  # curves are for `export`
    alive = has_driver(file.sweep)
    if as_json:
        print_json({"driver_alive": alive, "counts": counts, "trials": records(table[shown])})
        return
    out = open_console()
    out.print(status_table(records(table[shown])))
    out.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    if counts.get("running") and not alive:
        out.print("its driver is gone: `flatsweep submit` goes on from the checkpoints of what says 'running'")


@app.command()
def export(
    sweep: SweepArgument = DEFAULT_FILE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; standard output if not given.")] = None,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="By default the file's ending, else csv.")
    ] = None,
    evaluation: EvaluationOption = None,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write one row per trial and network measured, with all settings, states and values."""
    from orchestrator.analysis.export import write_content, write_table
    from orchestrator.analysis.sources import mixtures, repeated
    from orchestrator.report.latex import latex_table

    _, table = recorded_table(sweep, places(storage, tracking_uri, profile), evaluation, fresh)
    ending = output.suffix.removeprefix(".") if output else ""
    ending = {"tex": TableFormat.LATEX.value}.get(ending, ending)
    chosen = table_format or (TableFormat(ending) if ending in set(TableFormat) else TableFormat.CSV)
    if chosen is TableFormat.LATEX:
        write_content(latex_table(table).encode(), output)
    else:
        write_table(table, chosen.value, output)
    for line in [*(found.sentence() for found in mixtures(table)), *repeated(table)]:
        typer.echo(line, err=True)
    if output:
        typer.echo(f"wrote {len(table)} rows to {output}", err=True)


@app.command()
def correlate(
    sweep: SweepArgument = DEFAULT_FILE,
    measure: Annotated[
        list[str] | None, typer.Option(help="Column; may be repeated. Default: all that is measured, flatness first.")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="Column; may be repeated. Default: gaps and test.")] = None,
    where: WhereOption = None,
    by: ByOption = None,
    min_effective: MinEffectiveOption = 12.0,
    output_format: CorrelationFormatOption = CorrelationFormat.TABLE,
    figure: FigureOption = None,
    figures: FiguresOption = None,
    evaluation: EvaluationOption = None,
    allow_mixed: AllowMixedOption = False,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correlate flatness and other measures with the robust generalisation gap, and draw it."""
    from orchestrator.analysis.answer import Question
    from orchestrator.recorded import open_sweep

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    question = Question(measure, target, where, by, min_effective)
    chosen = chosen_format(output_format, as_json)
    show_answer(file, question, figures, figure, evaluation, chosen, fresh=fresh, allow_mixed=allow_mixed)


@app.command(name="report")
def web_page(
    sweep: SweepArgument = DEFAULT_FILE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; by default in the sweep's folder, and on its MLflow run."),
    ] = None,
    evaluation: EvaluationOption = None,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write all about the sweep as one web page that needs no network: the answer, plots, failures, costs, sources."""
    from orchestrator.recorded import open_sweep

    show_report(open_sweep(sweep, places(storage, tracking_uri, profile)), output, evaluation)


@app.command()
def compare(
    sweep_a: SweepArgument,
    sweep_b: Annotated[str | None, typer.Argument(help="Another one; the same, with --evaluation-b.")] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Column; may be repeated. Default: all measured.")] = None,
    evaluation_a: EvaluationOption = None,
    evaluation_b: EvaluationOption = None,
    allow_mixed: AllowMixedOption = False,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two sweeps, or two evaluations of one, network by network."""
    where = places(storage, tracking_uri, profile)
    sides = (sweep_a, evaluation_a), (sweep_b or sweep_a, evaluation_b)
    if sides[0] == sides[1]:
        raise UserError("this would compare a sweep with itself: name another sweep, or --evaluation-b")
    show_comparison(sides, where, measure, as_json, fresh=fresh, allow_mixed=allow_mixed)


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

    serve(open_sweep(sweep, places(storage, tracking_uri, profile)).sweep, port)
