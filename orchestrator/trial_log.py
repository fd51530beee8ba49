"""What happened in a trial, line by line: from its journal where the storage is at hand, else from its MLflow run."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.local_folder import stored_folder
from orchestrator.sink import CHANGED
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.journal import Record, read_records

LOOK_SECONDS = 2.0
SHOWN_TAGS = ("attempt", "device", "host", "error_class", "error")
SETTLED = frozenset({"finished", "failed"})


def lines(records: Sequence[Record]) -> list[str]:
    """The records as text, in the order of their times: one line for what was recorded together."""
    ordered = sorted(records, key=lambda record: record.time_ms)
    found = []
    for (kind, step, group), batch in itertools.groupby(ordered, key=_place):
        records = list(batch)
        if text := _text(kind, step, group, records):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(records[0].time_ms / 1000))
            found.append(f"{when}  {text}")
    return found


def _place(record: Record) -> tuple[str, int, str]:
    return record.kind, record.step, record.key.split("/")[0] if record.kind == "metric" and "/" in record.key else ""


def _text(kind: str, step: int, group: str, records: Sequence[Record]) -> str:
    if kind == "state":
        return "  ".join(record.text for record in records)
    if kind == "tag":
        return "  ".join(f"{r.key} {r.text}" for r in records if r.key in SHOWN_TAGS and r.text)
    if kind == "file":
        return "  ".join(f"wrote {record.key}" for record in records)
    values = "  ".join(f"{_name(r.key, group)} {r.value:.4g}" for r in records if not r.key.endswith("_se"))
    return f"epoch {step}  {group}  {values}" if group == "train" else f"{group or 'measured'}  {values}"


def _name(key: str, group: str) -> str:
    return key.removeprefix(f"{group}/") if group else key


def trial_records(sweep: Sweep, store: Store, run: TrialRun) -> list[Record]:
    """Everything that is recorded of a trial."""
    if (root := stored_folder(sweep)) is not None and (records := read_records(root / run.trial_id)):
        return records
    points = [point for key in run.metrics if key != CHANGED for point in store.history(run.run_id, key)]
    found = [Record("metric", p.key, value=p.value, step=p.step, time_ms=p.timestamp) for p in points]
    last_ms = max((record.time_ms for record in found), default=run.started_ms)
    tags = [Record("tag", key, text=run.tags.get(key, ""), time_ms=last_ms) for key in SHOWN_TAGS]
    return [*found, *tags, Record("state", "state", text=run.state, time_ms=last_ms)]


def traceback_of(sweep: Sweep, run: TrialRun) -> str:
    """The traceback of a trial that failed, where the storage is at hand."""
    if run.state != "failed" or (root := stored_folder(sweep)) is None:
        return ""
    folder = root / run.trial_id
    return folder.read(layout.ERROR).decode(errors="replace") if folder.exists(layout.ERROR) else ""


def follow(sweep: Sweep, store: Store, run: TrialRun) -> Iterator[str]:
    """The lines of a trial as they come, until it has finished or failed."""
    shown: set[str] = set()
    while True:
        records = trial_records(sweep, store, run)
        settled = run.state in SETTLED
        # what is recorded together gives one line, so the newest may still grow
        until_ms = float("inf") if settled else (time.time() - LOOK_SECONDS) * 1000
        yield from _fresh(lines([record for record in records if record.time_ms < until_ms]), shown)
        if settled:
            return
        time.sleep(LOOK_SECONDS)
        run = store.runs_by_id([run.run_id])[0]


def _fresh(texts: Iterable[str], shown: set[str]) -> Iterator[str]:
    for text in texts:
        if text not in shown:
            shown.add(text)
            yield text
