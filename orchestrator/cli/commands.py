"""What the commands share: opening what they are about, and printing what they found. Imports inside, for start-up."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.addresses import shown
from orchestrator.cli.options import DEFAULT_FILE
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from rich.console import Console

    from orchestrator.analysis.answer import Answer
    from orchestrator.cli.options import CorrelationFormat
    from orchestrator.external import Measured
    from orchestrator.plan import Plan
    from orchestrator.recorded import Places
    from orchestrator.spec.loading import SweepFile
    from orchestrator.spec.sweep import Sweep
    from orchestrator.submit import Submitted
    from orchestrator.tracking import Store

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
OUT_OF_TIME = 3
"""Exit code when the time that was given is used up, and trials are left."""


def places(storage: str | None, tracking_uri: str | None, profile: str | None) -> "Places":
    """What the command line says instead of the sweep file."""
    from orchestrator.recorded import Places

    return Places(storage, tracking_uri, profile)


def open_console(err: bool = False) -> "Console":
    """Standard output, or standard error."""
    from rich.console import Console

    return Console(stderr=err)


def planned(sweep: str, places: "Places") -> "tuple[SweepFile, Plan, list[Any]]":
    """The sweep, its plan and its recorded runs. Where no store was made yet, MLflow is not even imported."""
    from orchestrator.local_copy import LocalCopy
    from orchestrator.plan import make_plan
    from orchestrator.recorded import open_sweep
    from orchestrator.tracking import Store

    file = open_sweep(sweep, places)
    store = Store.existing(file.sweep)
    runs = LocalCopy(file.sweep, store).confirmed_runs() if store else []
    return file, make_plan(file.sweep, runs), runs


def existing_store(file: "SweepFile") -> Any:
    """The store of a sweep that has been submitted.

    Raises:
        UserError: nothing is recorded of it.
    """
    from orchestrator.tracking import Store
    from orchestrator.tracking_place import tracking_uri

    store = Store.existing(file.sweep)
    if store is None or store.experiment_id is None:
        raise UserError(
            f"nothing is recorded of sweep '{file.sweep.name}' in {shown(tracking_uri(file.sweep))}; "
            f"`flatsweep submit {file.words}` starts it"
        )
    return store


def recorded_table(
    sweep: str, where: "Places", evaluation: str | None = None, fresh: bool = False
) -> "tuple[SweepFile, pd.DataFrame]":
    """The sweep and the table of what is recorded of it; of the evaluation whose id begins so, if one is given."""
    from orchestrator.analysis.table import read_table
    from orchestrator.evaluations import with_evaluation
    from orchestrator.recorded import open_sweep

    file = open_sweep(sweep, where)
    return file, read_table(with_evaluation(file.sweep, evaluation), existing_store(file), fresh)


def publish(file: "SweepFile", done: "Submitted") -> "tuple[Answer | None, Path | None]":
    """Puts table, figures and report on the sweep's run after a submit or rerun, if it changed anything.

    Returns:
        The answer, where there is one, and where the report is.
    """
    from orchestrator.plan import Action

    if not done.launched:
        return None, None
    from orchestrator.analysis.answer import publish as publish_answer
    from orchestrator.report.write import write_report

    store = existing_store(file)
    found = publish_answer(file.sweep, store) if done.after.counts()[Action.DONE] else None
    return found, write_report([(file, store)], result=found.correlation if found else None)


def report(file: "SweepFile", done: "Submitted", page: Path | None, as_json: bool) -> int:
    """Says what a submit or rerun did.

    Args:
        file: the sweep.
        done: what was done.
        page: where its report is, if one was made.
        as_json: as plain data.

    Returns:
        The exit code: 0, 1 if trials failed, 130 if it was stopped, 3 if its time was used up.
    """
    from orchestrator.plan import Action
    from orchestrator.settings import trial_labels
    from orchestrator.show import plan_sentence, plan_table
    from orchestrator.tracking_place import tracking_uri

    failed = [entry for entry in (*done.after.teachers, *done.after.entries) if entry.action is Action.FAILED]
    if as_json:
        stopped = {"interrupted": done.interrupted, "stopped_by": done.stopped_by}
        did = {"launched": done.launched, **stopped, "report": str(page) if page else None}
        print_json(did | plan_json(done.after))
    else:
        out = open_console()
        if not done.after.entries:
            out.print("no failed trial to run again")
            return 0
        out.print(plan_table(done.after))
        if not done.launched:
            out.print(plan_sentence(done.after, None), highlight=False)
        elif done.interrupted:
            why = "stopped, as the time is used up" if done.stopped_by == "max_hours" else "stopped"
            out.print(f"{why}; `flatsweep submit {file.words}` goes on from here", highlight=False, markup=False)
        labels = trial_labels([entry.trial for entry in (*done.after.teachers, *done.after.entries)])
        for entry in failed:
            out.print(
                f"failed  {entry.trial_id}  {labels[entry.trial_id]}: {entry.reason}", highlight=False, markup=False
            )
        out.print(f"store   {shown(tracking_uri(file.sweep))}", highlight=False, markup=False, soft_wrap=True)
        if page:
            out.print(
                f"report  {page}  (a web page: open it in a browser)", highlight=False, markup=False, soft_wrap=True
            )
    return stop_code(done) or (1 if failed else 0)


def stop_code(done: "Submitted") -> int:
    """The exit code of a submit that was stopped; 0 where it was not."""
    return {None: 0, "max_hours": OUT_OF_TIME}.get(done.stopped_by, INTERRUPTED)


def chosen_format(output_format: "CorrelationFormat", as_json: bool) -> str:
    """What `correlate` prints: `--json` is `--format json`."""
    if as_json and output_format.value not in ("table", "json"):
        raise UserError(f"--json and --format {output_format.value} are two formats; give one")
    return "json" if as_json else output_format.value


def sources(
    names: "list[str] | None", where: "Places", evaluation: str | None
) -> "tuple[list[SweepFile], list[tuple[Sweep, Store]]]":
    """The sweeps that are meant, and each with the evaluation whose values are wanted and its store."""
    from orchestrator.evaluations import with_evaluation
    from orchestrator.recorded import open_sweep

    files = [open_sweep(name, where) for name in names or [DEFAULT_FILE]]
    return files, [(with_evaluation(file.sweep, evaluation), existing_store(file)) for file in files]


def show_answer(found: "Answer", output_format: str = "table") -> None:
    """Prints what `correlate` found; beside CSV and the like, notes go to stderr."""
    from orchestrator.analysis.formats import as_csv, as_latex, as_markdown
    from orchestrator.analysis.render import render, render_groups

    if output_format == "json":
        print_json(found.as_dict())
        return
    lines = [*found.mixed, *found.notes, *written(found.files)]
    if output_format != "table":
        text = {"csv": as_csv, "latex": as_latex, "markdown": as_markdown}[output_format]
        by = {f"{found.question.by} = {name}": result for name, result in found.groups.items()}
        typer.echo(text({"": found.correlation} | by), nl=False)
        for line in lines:
            typer.echo(line, err=True)
        return
    out = open_console()
    out.print(render(found.correlation))
    if found.groups:
        out.print(render_groups(found.question.by or "", found.groups))
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def written(files: "Sequence[Path]") -> list[str]:
    """Each folder, and the files written there; what has several forms, a figure and its data, on one line."""
    folders: dict[Path, dict[str, list[str]]] = {}
    for path in files:
        folders.setdefault(path.parent, {}).setdefault(path.stem, []).append(path.suffix)
    lines = []
    for folder, stems in folders.items():
        names = [f"{stem}{', '.join(suffixes)}" for stem, suffixes in stems.items()]
        if len(names) == 1:
            lines.append(f"wrote  {folder / names[0]}")
        else:
            lines += [f"wrote  in {folder}", *(f"       {name}" for name in names)]
    return lines


def show_comparison(
    sides: tuple[tuple[str, str | None], tuple[str, str | None]],
    where: "Places",
    measures: list[str] | None,
    as_json: bool,
    *,
    fresh: bool = False,
    allow_mixed: bool = False,
) -> None:
    """Compares two sweeps, each given with the evaluation wanted or None, and prints all of it."""
    import pandas as pd

    from orchestrator.analysis.comparison import compare, paired_trials, setting_differences
    from orchestrator.analysis.render_comparison import render_comparison
    from orchestrator.analysis.sources import mixtures, refuse_mixed

    (file_a, a), (file_b, b) = (recorded_table(name, where, evaluation, fresh) for name, evaluation in sides)
    mixed = mixtures(pd.concat([a, b]))
    if not allow_mixed:
        refuse_mixed(mixed)
    names = _side(file_a, sides[0][1]), _side(file_b, sides[1][1])
    found = compare(a, b, measures, names=names if names[0] != names[1] else ("A", "B"))
    trials_a, trials_b = ({trial.trial_id: trial for trial in file.sweep.trials()} for file in (file_a, file_b))
    settings = setting_differences(trials_a, trials_b, paired_trials(a, b), (found.a, found.b))
    sentences = [mixture.sentence() for mixture in mixed]
    if as_json:
        print_json(found.as_dict() | {"settings": settings, "mixed": sentences})
        return
    out = open_console()
    out.print(render_comparison(found))
    for line in [*(f"differs: {line}" for line in settings), *sentences]:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _side(file: "SweepFile", evaluation: str | None) -> str:
    """What a side of a comparison is called."""
    return file.sweep.name + (f" ({evaluation})" if evaluation else "")


def report_evaluation(file: "SweepFile", made: "Plan", runs: list[Any], as_json: bool) -> int:
    """Says how an evaluation stands; returns the exit code: 0, or 1 where it failed for a trial."""
    from orchestrator.evaluations import SHOWN_DIGITS, standing
    from orchestrator.plan import Action

    evaluation, by_id = made.sweep.evaluation, {run.trial_id: run for run in runs}
    states = {entry.trial_id: standing(by_id[entry.trial_id], evaluation) for entry in made.entries}
    failed = {trial_id: state for trial_id, state in states.items() if state.startswith("failed")}
    done = made.counts()[Action.DONE]
    if as_json:
        counts = {"trained": len(made.entries), "measured": done, "failed": len(failed)}
        print_json({"evaluation_id": evaluation.evaluation_id, **counts, "trials": states})
    else:
        out = open_console()
        for trial_id, state in failed.items():
            out.print(f"{trial_id}  {state}", highlight=False, markup=False, soft_wrap=True)
        name = evaluation.evaluation_id[:SHOWN_DIGITS]
        text = f"evaluation {name}: {done} of {len(made.entries)} trained trials measured"
        out.print(f"{text}; `flatsweep correlate {file.words} --evaluation {name}`", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def show_cost(made: "Plan", runs: list[Any], as_json: bool) -> None:
    """What measuring would cost, measure by measure."""
    from orchestrator.cost import costs
    from orchestrator.show import cost_table

    found = costs(made, runs)
    if as_json:
        print_json({"evaluation_id": made.sweep.evaluation.evaluation_id, "cost": [asdict(cost) for cost in found]})
    elif found:
        open_console().print(cost_table(found))
    else:
        open_console().print("nothing to measure", highlight=False)


def show_measured(found: "Measured", file: "SweepFile | None", as_json: bool) -> None:
    """Prints the values of a network from elsewhere; as JSON they alone are on standard output."""
    from rich import box
    from rich.table import Table

    notes = [f"flag  {name}: {flag}" for name, flags in found.flags.items() for flag in flags]
    if file is not None:
        notes.append(f"recorded as run {found.run_id}; `flatsweep export {file.words}` has it as its last rows")
    if as_json:
        print_json(found.plain())
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("value", "", "standard error"):
            table.add_column(heading, justify="left" if heading == "value" else "right")
        for name, value in found.values.items():
            if not name.endswith("_se"):
                error = found.values.get(f"{name}_se")
                table.add_row(name, f"{value:.5g}", "" if error is None else f"{error:.2g}")
        open_console().print(table)
    for note in notes:
        open_console(err=True).print(note, highlight=False, markup=False, soft_wrap=True)


def plan_json(made: "Plan") -> dict[str, Any]:
    """A plan as plain data."""
    from orchestrator.settings import setting_labels

    labels = setting_labels([entry.trial for entry in made.entries])
    settings = {entry.trial_id: label for entry, label in zip(made.entries, labels, strict=True)}
    return {
        "sweep": made.sweep.name,
        "counts": {action.value: count for action, count in made.counts().items()},
        "trials": [
            {
                "trial_id": entry.trial_id,
                "is_teacher": entry.is_teacher,
                "method": entry.trial.method.label(),
                "regularizer": entry.trial.regularizer_label,
                "setting": settings.get(entry.trial_id, ""),
                "seed": entry.trial.seed,
                "action": entry.action.value,
                "reason": entry.reason,
                "run_id": entry.run.run_id if entry.run else None,
            }
            for entry in (*made.teachers, *made.entries)
        ],
    }


def records(table: "pd.DataFrame") -> Any:
    """A table's rows as plain data."""
    return json.loads(table.to_json(orient="records"))


def print_json(data: Any) -> None:
    """Prints plain data as JSON."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))
