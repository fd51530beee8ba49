"""What `sync` and `doctor` found, for people, and what they do with it afterwards."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.doctor.examine import Examined
from orchestrator.doctor.finding import Level
from orchestrator.spec.loading import SweepFile
from orchestrator.sync import Synced

COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
MAX_ROWS = 40
"""Runs that a table lists."""


def publish_synced(file: SweepFile, done: Synced) -> None:
    """Makes table, figures and report anew, and logs them to the sweep's own run, if anything was sent."""
    from orchestrator.analysis.answer import publish
    from orchestrator.report.write import write_report
    from orchestrator.tracking import Store

    if done.dry_run or not done.changed or not (store := Store.existing(file.sweep)):
        return
    if any(run.state == "finished" for run in store.trial_runs(file.sweep.name)):
        found = publish(file.sweep, store)
        write_report([(file, store)], result=found.correlation if found else None)


def show_synced(done: Synced, out: Console) -> None:
    """A line for each run that lacked something, and what it comes to."""
    if done.sent:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("run", "trial", "values", "tags", "params", "files", "state"):
            table.add_column(heading, justify="left" if heading in {"run", "trial", "state"} else "right")
        for one in done.sent[:MAX_ROWS]:
            counts = (str(count or "") for count in (one.values, one.tags, one.params, one.files))
            name = one.label if len(one.label) < 80 else f"{one.label[:79]}..."
            table.add_row("new" if one.is_new else "", f"{one.trial_id} {name}", *counts, one.state or "")
        out.print(table)
        if len(done.sent) > MAX_ROWS:
            out.print(f"and {len(done.sent) - MAX_ROWS} more", highlight=False)
    for name, reason in done.left:
        out.print(f"left out  {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for note in done.notes:
        out.print(f"note  {note}", highlight=False, markup=False, soft_wrap=True)
    out.print(sentence(done), highlight=False, markup=False, soft_wrap=True)
    out.print(f"store  {done.store}", highlight=False, markup=False, soft_wrap=True)


def sentence(done: Synced) -> str:
    """What was sent, in one line."""
    if not done.changed:
        return f"nothing is missing: {done.complete} runs hold all that the storage has of them"
    total = {name: sum(getattr(one, name) for one in done.sent) for name in ("values", "tags", "params", "files")}
    what = ", ".join(f"{count} {name}" for name, count in total.items() if count)
    new = sum(one.is_new for one in done.sent)
    word = "would be " if done.dry_run else ""
    parts = [f"{new} runs {word}made", f"{len(done.sent) - new} {word}brought up to date", f"{done.complete} complete"]
    if done.parent:
        parts.append(f"the sweep's own run {word}{done.parent}")
    return f"{', '.join(parts)}{f'; {word}sent: {what}' if what else ''}"


def show_examined(done: Examined, out: Console) -> None:
    """A table of all findings; then what was mended, and how many are bad."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("check", "", "what", "how to mend it"):
        table.add_column(heading, overflow="fold")
    for finding in done.findings:
        level = f"[{COLOURS[finding.level]}]{finding.level}[/]"
        table.add_row(finding.check, level, escape(finding.what), escape(finding.mend))
    out.print(table)
    for line in done.fixed:
        out.print(f"fix  {line}", highlight=False, markup=False, soft_wrap=True)
    counts = {level: sum(finding.level is level for finding in done.findings) for level in Level}
    out.print(", ".join(f"{count} {level}" for level, count in counts.items()), highlight=False)
