"""Tables for the terminal: the plan as a matrix, the state of a sweep. Data in, rich renderables out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.cost import Cost
from orchestrator.plan import Action, Entry, Estimate, Plan
from orchestrator.settings import differences, trial_labels

if TYPE_CHECKING:
    from orchestrator.prune import Removal
    from orchestrator.status import Status

WORDS = {
    Action.RUN: "to run",
    Action.RESUME: "to resume",
    Action.MEASURE: "to measure",
    Action.DONE: "done",
    Action.FAILED: "failed",
}
COLOURS = {
    Action.RUN: "cyan",
    Action.RESUME: "yellow",
    Action.MEASURE: "magenta",
    Action.DONE: "green",
    Action.FAILED: "red",
}


MAX_COLUMNS = 8
"""Regularisers that a matrix has room for."""


def plan_table(plan: Plan) -> Table:
    """The plan as a matrix, or, where one would be wide or mostly empty, as a list of kinds of trials."""
    cells = {(entry.trial.method.label(), entry.trial.regularizer_label) for entry in plan.entries}
    methods, regularizers = {method for method, _ in cells}, {regularizer for _, regularizer in cells}
    fits = len(regularizers) <= MAX_COLUMNS and 2 * len(cells) > len(methods) * len(regularizers)
    return plan_matrix(plan) if fits else plan_kinds(plan)


def plan_matrix(plan: Plan) -> Table:
    """Methods down, regularisers across; in each cell how many seeds are done, to run, ..."""
    cells: dict[tuple[str, str], Counter[Action]] = defaultdict(Counter)
    for entry in plan.entries:
        cells[entry.trial.method.label(), entry.trial.regularizer_label][entry.action] += 1
    methods = list(dict.fromkeys(method for method, _ in cells))
    regularizers = list(dict.fromkeys(regularizer for _, regularizer in cells))
    table = Table(title=f"sweep '{plan.sweep.name}': trials per cell", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method")
    for regularizer in regularizers:
        table.add_column(escape(regularizer))
    for method in methods:
        table.add_row(escape(method), *(_cell(cells[method, regularizer]) for regularizer in regularizers))
    return table


def plan_kinds(plan: Plan) -> Table:
    """One line per method, regulariser and unusual setting, by name, with how many trials there are of all values."""
    kinds: dict[tuple[str, str, str], Counter[Action]] = defaultdict(Counter)
    unusual = differences([entry.trial for entry in plan.entries])
    for entry, settings in zip(plan.entries, unusual, strict=True):
        regularizers = " + ".join(item.name for item in entry.trial.regularizers) or "none"
        kinds[entry.trial.method.name, regularizers, ", ".join(settings)][entry.action] += 1
    table = Table(title=f"sweep '{plan.sweep.name}': trials per kind", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("method", "regularizer", "setting", "trials"):
        table.add_column(heading, overflow="fold")
    for names, counts in kinds.items():
        table.add_row(*map(escape, names), _cell(counts))
    return table


def _cell(counts: Counter[Action]) -> str:
    shown = [f"[{COLOURS[action]}]{counts[action]} {WORDS[action]}[/]" for action in Action if counts[action]]
    return ", ".join(shown) or "-"


def plan_sentence(plan: Plan, expected: Estimate | None) -> str:
    """What a submit would do, in one line."""
    counts = plan.counts()
    parts = [f"{counts[action]} {WORDS[action]}" for action in Action if counts[action]]
    text = f"{len(plan.entries)} trials: {', '.join(parts)}."
    if teachers := sum(entry.is_teacher for entry in plan.to_launch()):
        text += f" Before, {teachers} {'teacher is' if teachers == 1 else 'teachers are'} trained for pseudo-labels."
    if counts[Action.FAILED]:
        text += " Failed trials are taken up by `flatsweep rerun` only."
    if not plan.to_launch():
        return text + " Nothing to run."
    if expected is None:
        return text + " No estimate: no trial has finished yet."
    return text + f" About {hours(expected.trial_hours)} of trial time, from {expected.recorded} finished trials."


def cost_table(found: Sequence[Cost]) -> Table:
    """One line per measure: networks, passes, and trial time where it is known."""
    table = Table(title="to measure", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("measure")
    for heading in ("networks", "image passes", "trial time"):
        table.add_column(heading, justify="right")
    for cost in found:
        passes = f"{cost.passes:.3g}" if cost.passes else "?"
        table.add_row(
            cost.measure, str(cost.networks), passes, "?" if cost.seconds is None else hours(cost.seconds / 3600)
        )
    return table


def pruned_table(found: "Sequence[Removal]") -> Table:
    """What `prune` removes, folder by folder."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading, justify in (("folder", "left"), ("files", "right"), ("size", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for one in found:
        table.add_row(
            one.folder or ".", str(len(one.paths)) if one.paths else "all", decimal(one.size), escape(one.why)
        )
    return table


def hours(value: float) -> str:
    """Trial-hours in the unit that reads best."""
    return f"{value:.1f} trial-hours" if value >= 1 else f"{60 * value:.1f} trial-minutes"


def reasons(plan: Plan, entries: Sequence[Entry], limit: int = 40) -> Table:
    """One line per trial: what would be done and why.

    Args:
        plan: the whole plan, which tells what is unusual about a trial.
        entries: what is listed: entries of the plan, and whatever comes before them.
        limit: so many of them.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("trial", "cell and seed", "would", "why"):
        table.add_column(heading, overflow="fold")
    labels = trial_labels([entry.trial for entry in (*plan.entries, *entries)])
    for entry in entries[:limit]:
        table.add_row(
            entry.trial_id,
            escape(labels[entry.trial_id]),
            f"[{COLOURS[entry.action]}]{entry.action.value}[/]",
            escape(entry.reason),
        )
    if len(entries) > limit:
        table.add_row("...", f"and {len(entries) - limit} more (--all shows them)", "", "")
    return table


STATE_COLOURS = {"finished": "green", "failed": "red", "running": "cyan", "interrupted": "yellow"}


def show_status(status: "Status", rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """How a sweep stands: the table, then in a line each what is the matter."""
    if status.store_problem:
        out.print(Text(status.store_problem, "red"), soft_wrap=True)
        out.print("what follows is what the storage holds", highlight=False)
    out.print(status_table(rows))
    out.print(", ".join(f"{count} {state}" for state, count in status.counts.items()), highlight=False)
    if status.queue:
        out.print(Text(f"waiting: {status.queue.sentence()}", "yellow"), soft_wrap=True)
    if status.queue and not status.driver_alive:
        out.print("the next `flatsweep submit`, or `flatsweep sync`, sends what is queued", highlight=False)
    if status.repeated.restarts:
        out.print(status.repeated.sentence(), highlight=False, soft_wrap=True)
    if status.counts.get("running") and not status.driver_alive:
        out.print("its driver is gone: `flatsweep submit` goes on from the checkpoints of what says 'running'")


def status_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """One line per trial and network: what it is and where it stands; below, why each failed trial did."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("trial", no_wrap=True)
    table.add_column("cell and seed", overflow="fold")
    several = any(row["checkpoint"] != "last" for row in rows)
    if several:
        table.add_column("network", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("attempt", justify="right")
    table.add_column("robust gap", justify="right")
    waiting = any(row["waits_for"] for row in rows)
    if waiting:
        table.add_column("waits for", overflow="fold")
    failures = []
    for row in rows:
        setting = f" | {row['setting']}" if row["setting"] else ""
        label = f"{row['method']} | {row['regularizer']}{setting} | seed {row['seed']}"
        state = f"{row['state']}: {row['error_class']}" if row["error_class"] else row["state"]
        gap = row.get("robust_loss_gap")
        table.add_row(
            row["trial_id"],
            escape(label),
            *([_network(row)] if several else []),
            Text(state, STATE_COLOURS.get(row["state"], "")),
            str(row["attempt"] or ""),
            "" if gap is None else f"{gap:.3f}",
            *([escape(row["waits_for"])] if waiting else []),
        )
        if row["error"] and row["checkpoint"] == "last":
            failures.append(Text(f"{row['trial_id']}  {row['error']}"))
    return Group(table, *failures)


def _network(row: Mapping[str, Any]) -> str:
    """Which of a trial's networks a row is about: `last`, `best (12)`, with the epoch."""
    known = row["checkpoint"] == "best" and row["epoch"] is not None
    return f"{row['checkpoint']} ({row['epoch']:g})" if known else str(row["checkpoint"])
