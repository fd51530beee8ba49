"""Progress of a running sweep: a live table on a terminal, plain lines elsewhere. Driven by Ray Tune's callbacks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.waiting import Queue, short_duration
from workers import faults

SHOWN = 16
"""Running trials in the live table; the rest is counted."""
HEARTBEAT_SECONDS = 30.0
"""Between plain lines when nothing ends."""


@dataclass
class Line:
    """One running trial."""

    label: str
    started: float
    last: dict[str, Any] = field(default_factory=dict)


class LiveView(Callback):  # type: ignore[misc]
    """Shows a sweep as it runs.

    Args:
        labels: trial id -> text, for all trials that will run.
        done: number of trials that were done before.
        console: where to.
    """

    def __init__(self, labels: dict[str, str], done: int, console: Console) -> None:
        self._labels, self._console = labels, console
        self._total, self._before = len(labels) + done, done
        self._running: dict[str, Line] = {}
        self._finished: dict[str, float] = {}
        self._side_by_side = 1  # most trials seen running at once
        self._failed: list[tuple[str, str]] = []
        self._warned: set[str] = set()
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._said = time.monotonic()
        self._queue: Queue | None = None
        self._kept = 0  # records of trials that ended, which are in their journals only

    def __enter__(self) -> "LiveView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live:
            self._live.stop()

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        # Tune pickles its callbacks for Tuner.restore, which flatsweep does not use: an empty one will do
        return Callback, ()

    def put_aside(self) -> None:
        """No trial runs at present: each that did starts again later."""
        self._running.clear()
        self._refresh()

    # Ray Tune calls these in the driver; a trial's name in Tune is its trial id.

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002, D102
        name = str(trial)
        again = name in self._running
        self._running.setdefault(name, Line(self._labels.get(name, name), time.monotonic()))
        self._side_by_side = max(self._side_by_side, len(self._running))
        if not self._live:
            self._say(f"{'restarted' if again else 'started'}  {self._labels.get(name, name)}")

    def on_trial_result(  # noqa: D102
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **_info: Any,
    ) -> None:
        name = str(trial)
        line = self._running.setdefault(name, Line(self._labels.get(name, name), time.monotonic()))
        line.last |= result
        if (warning := result.get("warning")) and warning not in self._warned:
            self._warned.add(warning)
            self._print(f"[yellow]warning[/]   {escape(warning)}")
        if result.get("done"):
            self._end(name, line, result)
        self._look_at_queue()
        self._refresh()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002, D102
        name = str(trial)
        line = self._running.pop(name, Line(self._labels.get(name, name), time.monotonic()))
        self._failed.append((line.label, "worker lost"))
        self._print(f"[red]lost[/]      {escape(line.label)}: its worker died more often than max_retries allows")

    def _end(self, name: str, line: Line, result: dict[str, Any]) -> None:
        self._running.pop(name, None)
        faults.point("driver/trial-end", name)
        if unsent := line.last.get("unsent_records", 0):
            self._kept += unsent
            left = f"{line.label}: {unsent} records are in its journal only; the next submit sends them"
            self._print(f"[yellow]unsent[/]    {escape(left)}")
        if result.get("state") == "failed":
            self._failed.append((line.label, str(result.get("error_class"))))
            why = f"{line.label}: {result.get('error_class')}: {result.get('error')}"
            self._print(f"[red]failed[/]    {escape(why)}")
            return
        if result.get("state") == "running":
            self._print(f"[yellow]stopped[/]   {escape(line.label)}")
            return
        seconds = time.monotonic() - line.started
        self._finished[name] = seconds
        self._print(f"[green]finished[/]  {escape(line.label)}  ({seconds:.0f} s)  {self._counts()}")

    def _look_at_queue(self) -> None:
        """Says that records wait for the tracking store when they begin to, and when they are sent."""
        before, self._queue = (
            self._queue,
            Queue.joined(
                (line.last.get("unsent_records", 0), line.last.get("unsent_seconds", 0.0), line.last["unsent_reason"])
                for line in self._running.values()
                if line.last.get("unsent_records")
            ),
        )
        if self._queue and not before:
            self._print(f"[yellow]waiting[/]   {escape(self._queue.sentence())}")
        elif before and not self._queue and not self._kept:
            self._print("[green]sent[/]      MLflow has taken all records that were queued")

    def _counts(self) -> str:
        done = self._before + len(self._finished)
        failed = f", {len(self._failed)} failed" if self._failed else ""
        eta = self._eta()
        left = f", about {short_duration(eta)} left" if eta is not None else ""
        waiting = self._total - done - len(self._failed) - len(self._running)
        wait = f", {waiting} waiting for a free place" if waiting > 0 and self._running else ""
        return f"{done} of {self._total} done{failed}{wait}{left}"

    def _eta(self) -> float | None:
        left = self._total - self._before - len(self._finished) - len(self._failed)
        if not self._finished or not left:
            return None
        mean = sum(self._finished.values()) / len(self._finished)
        return mean * left / self._side_by_side

    def _refresh(self) -> None:
        if self._live:
            queue = [Text(self._queue.sentence(), "yellow")] if self._queue else []
            self._live.update(Group(self._table(), *queue))
        elif time.monotonic() - self._said > HEARTBEAT_SECONDS:
            running = "; ".join(f"{line.label} {_stage(line.last)}" for line in self._running.values())
            waits = f"; {self._queue.sentence()}" if self._queue else ""
            self._say(f"running    {running}  ({self._counts()}){waits}")

    def _table(self) -> Table:
        table = Table(title=self._counts(), title_justify="left", box=None)
        for heading in ("running", "stage", "done", "loss", "error", "time"):
            table.add_column(heading, justify="left" if heading in {"running", "stage"} else "right")
        lines: Sequence[Line] = list(self._running.values())
        for line in lines[:SHOWN]:
            loss, error = line.last.get("loss"), line.last.get("robust_error")
            table.add_row(
                escape(line.label),
                _stage(line.last),
                f"{100 * line.last.get('fraction', 0):.0f} %",
                "" if loss is None else f"{loss:.3f}",
                "" if error is None else f"{100 * error:.1f} %",
                short_duration(time.monotonic() - line.started),
            )
        if len(lines) > SHOWN:
            table.add_row(f"... and {len(lines) - SHOWN} more", *[""] * 5)
        return table

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)
        self._said = time.monotonic()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._said = time.monotonic()


def _stage(last: dict[str, Any]) -> str:
    if last.get("phase") == "train":
        return f"epoch {last['epoch']}/{last['epochs']}"
    return str(last.get("phase", "starting"))
