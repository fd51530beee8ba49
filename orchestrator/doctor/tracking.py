"""The tracking store: a server's answer in words, then a run that is really written, read back and deleted for good."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.addresses import is_server, public
from orchestrator.doctor.finding import Finding, Level, Question, first_line
from orchestrator.serving.probe import server_problem
from orchestrator.tracking_place import database_file, database_problem

CHECK = "tracking"
EXPERIMENT = "flatsweep-doctor"
"""Where the sweep has none yet."""
METRIC, FILE = "doctor", "doctor.txt"


def findings(question: Question) -> list[Finding]:
    """One line: what is wrong, or that a run was written."""
    uri = question.tracking_uri
    if uri is None:
        return [Finding(CHECK, Level.OK, "no sweep and no MLFLOW_TRACKING_URI: a sweep makes SQLite in its storage")]
    parts = urlsplit(uri)
    if (file := database_file(uri)) is not None:
        if problem := database_problem(file):
            mend = "move that file away; `flatsweep sync` makes the store again from the storage"
            return [Finding(CHECK, Level.PROBLEM, problem, mend)]
        if not file.exists():
            return [_first_use(question, file)]
    elif is_server(uri):
        if problem := server_problem(uri, question.sweep.experiment if question.sweep else None):
            return [Finding(CHECK, Level.PROBLEM, problem, "docs/tracking-server.md tells how a server is set up")]
    elif parts.scheme in {"", "file"}:
        what = f"MLflow no longer writes to plain folders ({uri})"
        return [Finding(CHECK, Level.PROBLEM, what, "give sqlite:///FILE, or a server's address")]
    return [_written(uri, question)]


def _first_use(question: Question, file: Path) -> Finding:
    """A store of the same kind, made and removed: the sweep's own is made by its first submit."""
    nearest = file.parent
    while not nearest.is_dir() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".flatsweep-doctor-", dir=nearest) as place:
            return _written(f"sqlite:///{place}/mlflow.db", question, f" (in {nearest}: {file} is not made yet)")
    except OSError as error:
        what = f"no database can be made in {nearest}: {error.strerror or error}"
        return Finding(CHECK, Level.PROBLEM, what, "give a tracking.uri, or a storage, that can be written")


def _written(uri: str, question: Question, remark: str = "") -> Finding:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    shown = public(uri)
    try:
        left = _Run(uri, question).write()
    except (MlflowException, SQLAlchemyError, OSError, _DifferentError) as error:
        what = f"a run cannot be written to {shown}: {first_line(error)}"
        mend = "look at the permissions of the store and of its artifacts, and for another program that locks it"
        return Finding(CHECK, Level.PROBLEM, what, mend)
    return Finding(CHECK, Level.OK, f"a store works{remark}" if remark else f"{shown}: {left}")


class _DifferentError(Exception):
    """What was read is not what was written."""


@dataclass(frozen=True)
class _Experiment:
    experiment_id: str
    is_ours: bool
    """Not the sweep's."""


class _Run:
    """A run that lives for a moment.

    A store that is a database is rid of it afterwards. A server keeps what is deleted until `mlflow gc`: there one run
    is taken up again each time.
    """

    def __init__(self, uri: str, question: Question) -> None:
        from mlflow import MlflowClient

        self._uri, self._question = uri, question
        self._client = MlflowClient(tracking_uri=uri)
        self._served = urlsplit(uri).scheme in {"http", "https"}

    def write(self) -> str:
        """Returns what was done."""
        with self._experiment() as experiment:
            run_id = self._open(experiment)
            try:
                self._check(run_id)
            finally:
                self._delete(run_id)
        if self._served:
            return "a run was written, read back and deleted (the server keeps it as deleted, and it is used again)"
        return "a run was written, read back and deleted for good"

    @contextlib.contextmanager
    def _experiment(self) -> Iterator[_Experiment]:
        """The sweep's; else one of our own that is deleted again."""
        sweep, client = self._question.sweep, self._client
        name = sweep.experiment if sweep else EXPERIMENT
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "active" and sweep:
            yield _Experiment(found.experiment_id, is_ours=False)
            return
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            experiment_id = str(found.experiment_id)
            if found.lifecycle_stage != "active":
                client.restore_experiment(experiment_id)
        else:
            place = None if self._served else (Path(self._question.scratch) / "artifacts").as_uri()
            experiment_id = str(client.create_experiment(EXPERIMENT, artifact_location=place))
        try:
            yield _Experiment(experiment_id, is_ours=True)
        finally:
            client.delete_experiment(experiment_id)
            if hasattr(self._store, "_hard_delete_experiment"):
                self._store._hard_delete_experiment(experiment_id)

    @property
    def _store(self) -> Any:
        """What `mlflow gc` uses: no public call deletes for good."""
        from mlflow.tracking._tracking_service.utils import _get_store

        return _get_store(self._uri)

    def _open(self, experiment: _Experiment) -> str:
        from mlflow.entities import ViewType

        query = "tags.`flatsweep.kind` = 'doctor'"
        found = self._client.search_runs([experiment.experiment_id], query, ViewType.ALL, max_results=1)
        if not found:
            tags = {"flatsweep.kind": "doctor"}
            run = self._client.create_run(experiment.experiment_id, run_name=EXPERIMENT, tags=tags)
            return str(run.info.run_id)
        run_id = str(found[0].info.run_id)
        if found[0].info.lifecycle_stage != "active":
            self._client.restore_run(run_id)
        return run_id

    def _check(self, run_id: str) -> None:
        """A value and a file, there and back."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(METRIC, now_ms / 7, now_ms, 0)])
        self._client.log_text(run_id, str(now_ms), FILE)
        points = [point.value for point in self._client.get_metric_history(run_id, METRIC) if point.timestamp == now_ms]
        if points != [now_ms / 7]:
            raise _DifferentError(f"a value that was written is read back as {points}")
        with tempfile.TemporaryDirectory(prefix="flatsweep-") as place:
            text = Path(self._client.download_artifacts(run_id, FILE, place)).read_text()
        if text != str(now_ms):
            raise _DifferentError("a file that was written is read back otherwise")
        self._client.set_terminated(run_id)

    def _delete(self, run_id: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = str(self._client.get_run(run_id).info.artifact_uri)
        repository = get_artifact_repository(uri, tracking_uri=self._uri)
        if any(item.path == FILE for item in repository.list_artifacts()):
            repository.delete_artifacts(FILE)
        self._client.delete_run(run_id)
        if hasattr(self._store, "_hard_delete_run"):
            self._store._hard_delete_run(run_id)
            if (place := urlsplit(uri)).scheme in {"", "file"}:
                for folder in (Path(place.path), Path(place.path).parent):
                    with contextlib.suppress(OSError):  # another file is there, or it was never made
                        folder.rmdir()


def server_address(uri: str | None) -> str | None:
    """The address of a tracking server; None for another store."""
    return uri if uri and urlsplit(uri).scheme in {"http", "https"} else None
