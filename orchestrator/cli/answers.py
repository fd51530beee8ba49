"""Commands that measure beside a sweep and answer from what is recorded. Each calls one function and prints."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.commands import (
    chosen_format,
    existing_store,
    open_console,
    places,
    recorded_table,
    show_answer,
    show_comparison,
    show_measured,
    sources,
)
from orchestrator.cli.options import (
    DEFAULT_FILE,
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
    SweepsArgument,
    TableFormat,
    TrackingOption,
    WhereOption,
)
from orchestrator.errors import UserError

group = typer.Typer()


@group.command()
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


@group.command()
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


@group.command()
def correlate(
    sweeps: SweepsArgument = None,
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
    from orchestrator.analysis.answer import Question, answer, answer_together
    from orchestrator.evaluations import analysis_folder

    chosen = chosen_format(output_format, as_json)
    question = Question(measure, target, where, by, min_effective)
    files, sides = sources(sweeps, places(storage, tracking_uri, profile), evaluation)
    if len(sides) > 1:
        found = answer_together(sides, question, figures, figure, fresh=fresh, allow_mixed=allow_mixed)
    else:
        ((sweep, store),) = sides
        name = analysis_folder(files[0].sweep, sweep.evaluation)
        found = answer(sweep, store, question, figures, name, figure, fresh=fresh, allow_mixed=allow_mixed)
    show_answer(found, chosen)


@group.command(name="report")
def web_page(
    sweeps: SweepsArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; by default in the sweep's folder, and on its MLflow run."),
    ] = None,
    evaluation: EvaluationOption = None,
    allow_mixed: AllowMixedOption = False,
    fresh: FreshOption = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write all about a sweep, or several, as one web page that needs no network: answer, plots, failures, costs."""
    from orchestrator.report.write import write_report

    files, sides = sources(sweeps, places(storage, tracking_uri, profile), evaluation)
    made = [(file, store) for file, (_, store) in zip(files, sides, strict=True)]
    path = write_report(made, output, evaluation, fresh=fresh, allow_mixed=allow_mixed, refuse=True)
    open_console().print(f"wrote  {path}", highlight=False, markup=False, soft_wrap=True)


@group.command()
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
