"""What one run lacks of what the storage holds for it, and sending just that: where nothing is missing, nothing is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.sink import (
    FILE_TAG,
    MAX_METRICS,
    MAX_TAG,
    STATUS,
    TAG,
    Points,
    change_mark,
    log_changes,
    log_file,
    new_metrics,
    recorded_points,
    set_status,
)
from orchestrator.stored import Stored
from orchestrator.tracking import MAX_PARAMS
from workers.journal import Record, same

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Held:
    """What the store holds of a run: `tags` with their prefixes, `artifacts` by path."""

    status: str
    tags: dict[str, str]
    params: dict[str, str]
    points: Points = field(default_factory=dict)
    artifacts: frozenset[str] = frozenset()

    @classmethod
    def new(cls, stored: Stored, parent: str) -> "Held":
        """A run that `Store.create_run` has just made."""
        tags = {TAG + key: text for key, text in stored.content.tags.items()} | dict(stored.origin.tags)
        tags |= {PARENT: parent, f"{TAG}state": "pending"}
        return cls("SCHEDULED", tags, stored.content.params, artifacts=frozenset({stored.content.file}))

    @classmethod
    def read(cls, client: "MlflowClient", run_id: str, records: Sequence[Record], folders: set[str]) -> "Held":
        """Asks the store: once for the run, once for each curve among the records, once for each folder of artifacts.

        Points are those of the records' metrics only.
        """
        run = client.get_run(run_id)
        points = _points(client, run, records)
        artifacts = (item.path for folder in sorted(folders) for item in client.list_artifacts(run_id, folder or None))
        return cls(run.info.status, dict(run.data.tags), dict(run.data.params), points, frozenset(artifacts))


def _points(client: "MlflowClient", run: "Run", records: Sequence[Record]) -> Points:
    """The histories of the metrics among the records, as far as `new_metrics` needs them.

    A run comes with each metric's newest point. Of a metric with one record, most often that is the record, and says
    all; only the history of another metric costs a question.
    """
    metrics = [record for record in records if record.kind == "metric"]
    newest = {point.key: point for point in run.data.to_proto().metrics}
    counts = Counter(record.key for record in metrics)
    points: Points = {}
    unclear = set[str]()
    for record in metrics:
        point = newest.get(record.key)
        if point is None:
            continue
        alike = point.timestamp == record.time_ms or same(point.value, record.value)
        if counts[record.key] == 1 and point.step == record.step and alike:
            points[record.key, record.step] = {point.timestamp: point.value}
        else:
            unclear.add(record.key)
    return points | recorded_points(client, run.info.run_id, sorted(unclear))


@dataclass(frozen=True)
class Missing:
    """What a run lacks."""

    metrics: Sequence[Record] = ()
    tags: dict[str, str] = field(default_factory=dict)
    """Without prefix; the state is not among them."""
    params: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Hash by path in the trial's folder."""
    content_file: bool = False
    """The artifact that says what it is of."""
    state: str | None = None
    """The right one, where state or status is another."""
    ended_ms: int | None = None
    parent: str | None = None
    """Id of the sweep's run, where it says another."""
    gone: tuple[str, ...] = ()
    """Files that neither the store nor the folder has."""

    def __bool__(self) -> bool:
        """Whether there is anything to send."""
        what = (self.metrics, self.tags, self.params, self.files, self.content_file, self.state, self.parent)
        return any(what)


def compare(stored: Stored, records: Sequence[Record], held: Held, parent: str) -> Missing:
    """What the run lacks.

    Args:
        stored: the trial.
        records: its journal.
        held: what the store has.
        parent: id of the sweep's run.
    """
    said = {record.key: record.text[:MAX_TAG] for record in records if record.kind == "tag"}
    made = {key: text for key, text in stored.content.tags.items() if key not in said and TAG + key not in held.tags}
    tags = made | {key: text for key, text in said.items() if held.tags.get(TAG + key) != text}
    hashes = {record.key: record.text for record in records if record.kind == "file"}
    unsent = {
        path: content_hash
        for path, content_hash in hashes.items()
        if path not in held.artifacts or held.tags.get(FILE_TAG + path) != content_hash
    }
    files = {path: content_hash for path, content_hash in unsent.items() if stored.folder.exists(path)}
    states = [record for record in records if record.kind == "state"]
    last = states[-1].text if states else None
    right = last is None or (held.tags.get(f"{TAG}state") == last and held.status == STATUS[last])
    return Missing(
        metrics=new_metrics(records, held.points),
        tags=tags,
        params={key: text for key, text in stored.content.params.items() if key not in held.params},
        files=files,
        content_file=stored.content.file not in held.artifacts,
        state=None if right else last,
        ended_ms=states[-1].time_ms if states else None,
        parent=None if held.tags.get(PARENT) == parent else parent,
        gone=tuple(path for path in unsent if path not in files),
    )


def send(client: "MlflowClient", run_id: str, stored: Stored, missing: Missing) -> None:
    """Values first and the state last, as a worker sends them."""
    from mlflow.entities import Metric, Param

    params = [Param(key, text) for key, text in missing.params.items()]
    for low in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, metrics=[change_mark()], params=params[low : low + MAX_PARAMS])
    for low in range(0, len(missing.metrics), MAX_METRICS):
        part = missing.metrics[low : low + MAX_METRICS]
        log_changes(client, run_id, [Metric(m.key, m.value, m.time_ms, m.step) for m in part])
    if missing.content_file:
        client.log_dict(run_id, stored.content.data, stored.content.file)
    for path, content_hash in missing.files.items():
        log_file(client, run_id, stored.folder, path, content_hash)
    if missing.parent:
        client.set_tag(run_id, PARENT, missing.parent)
    if missing.tags:
        log_changes(client, run_id, tags=missing.tags)
    if missing.state:
        log_changes(client, run_id, tags={"state": missing.state})
        set_status(client, run_id, missing.state, missing.ended_ms)
