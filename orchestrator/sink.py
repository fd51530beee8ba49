"""Delivers a trial's records to its one MLflow run, by run id. The only part of tracking that runs on workers."""

import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.addresses import hidden, secret
from orchestrator.tracking_place import quiet
from workers import faults
from workers.journal import Record, same
from workers.storage import Folder
from workers.unsent import Unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

TAG = "flatsweep."
"""Prefix of every tag of ours."""
FILE_TAG = f"{TAG}file/"
"""Prefix of the tags that say which file of the trial's folder is an artifact, with its hash."""
CHANGED = "system/flatsweep_changed"
"""The metric that says when flatsweep last changed a run, in ms since 1970: whoever holds a copy of the runs asks for
those whose value is new. A metric, as tags cannot be compared by size; under `system/`, which MLflow's pages keep apart
from what a run measures."""
MAX_METRICS, MAX_TAGS, MAX_TAG = 999, 100, 8000
"""MLflow's limits: metrics in a batch, beside `CHANGED`; tags in a batch, characters in a tag."""
STATUS = {
    "pending": "SCHEDULED",
    "running": "RUNNING",
    "interrupted": "KILLED",
    "finished": "FINISHED",
    "failed": "FAILED",
}
"""A trial's state -> the run's status in MLflow."""

Points = dict[tuple[str, int], dict[int, float]]
"""For each metric and step its values by time, in ms since 1970."""


class RunSink:
    """Sends records to one run. Sending some again adds nothing.

    Args:
        uri: tracking URI.
        run_id: of the trial's run.
        folder: of the trial, where files that are recorded lie; without one they are not sent.
    """

    def __init__(self, uri: str, run_id: str, folder: Folder | None = None) -> None:
        self._uri, self._run_id, self._folder = uri, run_id, folder
        self.waits: Unsent | None = None
        """What has been waiting to be sent for long."""

    @cached_property
    def _client(self) -> "MlflowClient":
        # mlflow takes seconds to import: here it does so in the recorder's thread, while the trial begins to train
        from mlflow import MlflowClient

        quiet()  # with MLflow's own waits it takes minutes until a server that is away is known to be
        return MlflowClient(tracking_uri=self._uri)

    @cached_property
    def _recorded(self) -> Points:
        """What the run holds already."""
        return recorded_points(self._client, self._run_id, self._client.get_run(self._run_id).data.metrics)

    def told(self, waits: Unsent | None) -> None:
        """Hears what has been waiting to be sent for long; None when nothing does any more."""
        self.waits = waits

    def send(self, records: Sequence[Record]) -> None:
        """Delivers the records; what it raises, which is logged, has no password of the store in it."""
        try:
            self._send(records)
        except Exception as error:
            if secret(self._uri) is None:
                raise
            raise ConnectionError(f"{type(error).__name__}: {hidden(str(error), self._uri)}") from None

    def _send(self, records: Sequence[Record]) -> None:
        """Metrics first, then tags, then the last state: a run is closed only when everything else is there."""
        from mlflow.entities import Metric

        faults.point("mlflow/begin")
        metrics = new_metrics(records, self._recorded)
        for low in range(0, len(metrics), MAX_METRICS):
            part = metrics[low : low + MAX_METRICS]
            log_changes(self._client, self._run_id, [Metric(m.key, m.value, m.time_ms, m.step) for m in part])
            for record in part:
                self._recorded.setdefault((record.key, record.step), {})[record.time_ms] = record.value
        faults.point("mlflow/metrics")
        self._send_files({record.key: record.text for record in records if record.kind == "file"})
        tags = {record.key: record.text for record in records if record.kind == "tag"}
        states = [record.text for record in records if record.kind == "state"]
        if states:
            tags["state"] = states[-1]
        if tags:
            log_changes(self._client, self._run_id, tags=tags)
        faults.point("mlflow/tags", states[-1] if states else "")
        if states:
            set_status(self._client, self._run_id, states[-1])
        faults.point("mlflow/sent", states[-1] if states else "")

    @cached_property
    def _files(self) -> dict[str, str]:
        """Path and hash of the files that the run holds."""
        tags = self._client.get_run(self._run_id).data.tags
        return {key.removeprefix(FILE_TAG): text for key, text in tags.items() if key.startswith(FILE_TAG)}

    def _send_files(self, hashes: Mapping[str, str]) -> None:
        """Logs files as artifacts under their paths; a tag with the hash says that it was done."""
        if self._folder is None:
            return
        for path, content_hash in hashes.items():
            if self._files.get(path) == content_hash:
                continue
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                # journals lie in the storage, where others may write too
                logger.warning(
                    "%s/journal.jsonl names the file %r, outside the trial's folder: left out", self._folder, path
                )
                continue
            if not self._folder.exists(path):
                logger.warning("%s/%s is gone and cannot be logged to MLflow", self._folder, path)
                continue
            log_file(self._client, self._run_id, self._folder, path, content_hash)
            self._files[path] = content_hash


def recorded_points(client: "MlflowClient", run_id: str, keys: Iterable[str]) -> Points:
    """The whole histories of a run's metrics, without `CHANGED`; each costs a question to the store."""
    recorded: Points = {}
    for key in keys:
        for point in client.get_metric_history(run_id, key) if key != CHANGED else ():
            recorded.setdefault((key, point.step), {})[point.timestamp] = point.value
    return recorded


def new_metrics(records: Iterable[Record], recorded: Mapping[tuple[str, int], Mapping[int, float]]) -> list[Record]:
    """The metrics among the records that a run lacks, once each and in order.

    A trial whose folder was lost records the same values again at another time; these are not new. A value that was
    replaced and came back is.
    """
    known: Points = {}
    new = []
    for record in records:
        if record.kind != "metric":
            continue
        place = record.key, record.step
        values = known.setdefault(place, dict(recorded.get(place, {})))
        if record.time_ms not in values and (not values or not same(values[max(values)], record.value)):
            values[record.time_ms] = record.value
            new.append(record)
    return new


def log_file(client: "MlflowClient", run_id: str, folder: Folder, path: str, content_hash: str) -> None:
    """Logs a file of a trial's folder as artifact under its path; a tag with the hash says that it was done."""
    with tempfile.TemporaryDirectory(prefix="flatsweep-") as place:
        copy = Path(place) / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(folder.read(path))
        inside = str(copy.parent.relative_to(place))
        client.log_artifact(run_id, str(copy), None if inside == "." else inside)
    log_changes(client, run_id, tags={FILE_TAG.removeprefix(TAG) + path: content_hash})


def log_changes(
    client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]" = (), tags: Mapping[str, str] | None = None
) -> None:
    """Logs at most `MAX_METRICS` metrics, and our tags, named without `TAG`; marks the run as changed with each batch.

    MLflow commits a batch's metrics, the mark among them, before its tags: nothing is there without its mark.
    """
    from mlflow.entities import RunTag

    texts = [RunTag(TAG + key, text[:MAX_TAG]) for key, text in (tags or {}).items()]
    client.log_batch(run_id, metrics=[*metrics, change_mark()], tags=texts[:MAX_TAGS])
    for low in range(MAX_TAGS, len(texts), MAX_TAGS):
        client.log_batch(run_id, metrics=[change_mark()], tags=texts[low : low + MAX_TAGS])


def change_mark() -> "Metric":
    """`CHANGED` with the present time."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return Metric(CHANGED, now_ms, now_ms, 0)


def set_status(client: "MlflowClient", run_id: str, state: str, ended_ms: int | None = None) -> None:
    """Puts a run's status in line with the trial's state; a state that ends an attempt sets the end time, now if not
    given, in ms since 1970."""
    status = STATUS[state]
    if status in {"RUNNING", "SCHEDULED"}:
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status=status, end_time=ended_ms)
