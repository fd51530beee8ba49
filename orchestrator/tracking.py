"""Everything that is asked of the MLflow store: a sweep's runs, their states, their making and closing.

One experiment holds a sweep: a parent run with the sweep file, the table and the figures, and one run for each trial,
for ever: another attempt continues it.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError
from orchestrator.spec.base import Spec, flatten
from orchestrator.spec.external import METHOD as EXTERNAL
from orchestrator.spec.external import External
from orchestrator.spec.sweep import Evaluation, Sweep, Trial
from orchestrator.versions import source_tags

MAX_PARAMS, MAX_PARAM = 100, 6000
"""MLflow's limits: params in a batch, characters in a value."""
IDS_AT_ONCE = 1000
"""Ids of runs in one question: the parser of MLflow's filters is slow, and databases limit what one may hold."""
DATABASE = "mlflow.db"


def tracking_uri(sweep: Sweep) -> str:
    """Where a sweep is recorded: its own `tracking.uri`, else MLFLOW_TRACKING_URI, else SQLite in its storage."""
    return sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{sweep.storage}/{DATABASE}"


def database_file(uri: str) -> Path | None:
    """The file of an SQLite tracking URI; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def database_problem(file: Path) -> str | None:
    """What keeps a file from being an SQLite store; None for a good one and for one that is still to be made."""
    if file.is_dir():
        return f"tracking: {file} is a folder, not an SQLite file"
    if file.exists() and file.stat().st_size:
        with file.open("rb") as content:
            if content.read(16) != b"SQLite format 3\x00":
                return f"tracking: {file} is not an SQLite file"
    return None


@dataclass(frozen=True)
class TrialRun:
    """What the store holds of one trial."""

    run_id: str
    trial_id: str
    status: str
    """MLflow's."""
    state: str
    """Ours: pending, running, interrupted, finished, failed."""
    evaluation_id: str
    error_class: str
    error: str
    tags: dict[str, str]
    """Ours, without prefix."""
    metrics: dict[str, float]
    """The latest value of each, without `sink.CHANGED`."""
    params: dict[str, str]
    started_ms: int = 0
    """When it was made, in ms since 1970."""
    changed_ms: int = 0
    """When flatsweep last changed it; 0 for a run of a version that did not say so."""
    curves: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Values at the epochs before the last whose networks were measured; only where they were asked for."""

    @classmethod
    def of(
        cls,
        run_id: str,
        status: str,
        tags: dict[str, str],
        metrics: dict[str, float],
        params: dict[str, str],
        started_ms: int,
        changed_ms: int,
    ) -> "TrialRun":
        """A run by what is stored of it: trial, state and error stand in its tags."""
        return cls(
            run_id=run_id,
            trial_id=tags.get("trial_id", ""),
            status=status,
            state=tags.get("state", "pending"),
            evaluation_id=tags.get("evaluation_id", ""),
            error_class=tags.get("error_class", ""),
            error=tags.get("error", ""),
            tags=tags,
            metrics=metrics,
            params=params,
            started_ms=started_ms,
            changed_ms=changed_ms,
        )

    @property
    def is_external(self) -> bool:
        """Whether it is of a network that was not trained here, and so of no cell of the grid."""
        return self.tags.get("method_name") == EXTERNAL


class Store:
    """The tracking store of one sweep.

    Args:
        uri: MLflow tracking URI.
        experiment: the experiment's name.
        artifacts: folder for artifacts of a store without a server.

    Raises:
        UserError: the store cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri, self.experiment, self._artifacts = uri, experiment, artifacts
        _quiet()
        with self._reached():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
        self.experiment_id: str | None = found.experiment_id if found else None

    @classmethod
    def of(cls, sweep: Sweep) -> "Store":
        """The store of a sweep. An SQLite store is made, with its schema, if it does not exist.

        Making it here, before any worker, matters: parallel first use of one file fails in migration.
        """
        uri = tracking_uri(sweep)
        if (file := database_file(uri)) is not None:
            if problem := database_problem(file):  # MLflow would try for half a minute and end in a traceback
                raise UserError(problem)
            file.parent.mkdir(parents=True, exist_ok=True)
        return cls(uri, sweep.experiment, Path(sweep.storage) / "artifacts")

    @classmethod
    def existing(cls, sweep: Sweep) -> "Store | None":
        """The store of a sweep, or None where an SQLite store was not made yet."""
        file = database_file(tracking_uri(sweep))
        return None if file is not None and not file.exists() else cls.of(sweep)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0][:300]
            raise UserError(f"the tracking store {self.uri} cannot be used: {reason}") from error

    def prepare(self) -> None:
        """Makes the experiment if it does not exist."""
        with self._reached():
            if self.experiment_id is None:
                served = self.uri.startswith(("http://", "https://", "databricks"))
                place = None if served else (self._artifacts / self.experiment).as_uri()
                self.experiment_id = self.client.create_experiment(self.experiment, artifact_location=place)

    def trial_runs(self, sweep_name: str) -> list[TrialRun]:
        """All trial runs of a sweep, oldest first; runs deleted in MLflow are not among them."""
        return [_trial_run(run) for run in self._search(_query(sweep_name, "trial"))]

    def changed_runs(self, sweep_name: str, since_ms: int) -> list[TrialRun]:
        """The trial runs of a sweep that flatsweep changed after a time, in ms since 1970."""
        from orchestrator.sink import CHANGED

        query = f"{_query(sweep_name, 'trial')} and metrics.`{CHANGED}` > {since_ms}"
        return [_trial_run(run) for run in self._search(query)]

    def runs_by_id(self, run_ids: Sequence[str]) -> list[TrialRun]:
        """The trial runs with these ids, as far as they are there."""
        return [_trial_run(run) for ids in _parts(run_ids) for run in self._search(_with_ids(ids))]

    def holds_exactly(self, sweep_name: str, run_ids: Sequence[str]) -> bool:
        """Whether the trial runs of a sweep are those with these different ids; what they hold is not fetched."""
        if not self._counts(_query(sweep_name, "trial"), len(run_ids)):
            return False
        return all(self._counts(_with_ids(ids), len(ids)) for ids in _parts(run_ids))

    def confirms(self, sweep_name: str, runs: Sequence[TrialRun]) -> bool:
        """Whether the trial runs of a sweep are just these, each now with this status, state, evaluation and class of
        error; what they hold is not fetched."""
        if not self._counts(_query(sweep_name, "trial"), len(runs)):
            return False
        alike: dict[str, list[str]] = {}
        for run in runs:
            alike.setdefault(_like(run), []).append(run.run_id)
        parts = [(query, ids) for query, all_ids in alike.items() for ids in _parts(all_ids)]
        return all(self._counts(f"{query} and {_with_ids(ids)}", len(ids)) for query, ids in parts)

    def _counts(self, query: str, count: int) -> bool:
        """Whether exactly `count` runs match: a page of two that begins with the last of them holds just one.

        A store whose pages are called otherwise than in MLflow 3.17 gives False.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.utils.search_utils import SearchUtils

        if self.experiment_id is None:
            return count == 0
        token = SearchUtils.create_page_token(count - 1) if count > 1 else None
        try:
            page = self.client.search_runs([self.experiment_id], query, max_results=2, page_token=token)
        except MlflowException:
            return False
        return len(page) == min(count, 1)

    def with_curves(self, run: TrialRun, keys: Sequence[str], prefix: str = "") -> TrialRun:
        """The run with the values `keys` at every epoch whose network was measured.

        Each key costs a question to the store, where there are such epochs.

        Args:
            run: of a trial.
            keys: names of values.
            prefix: before the names in the store (`workers.layout.evaluation_prefix`).
        """
        epochs = run.tags.get(f"{prefix}kept_epochs", "")
        curves: dict[int, dict[str, float]] = {int(epoch): {} for epoch in epochs.split(",") if epoch}
        with self._reached():
            for key in keys if curves else ():
                for point in self.client.get_metric_history(run.run_id, prefix + key):
                    if point.step in curves:
                        curves[point.step][key] = point.value
        return replace(run, curves=curves)

    def parent_run(self, sweep_name: str) -> str | None:
        """Id of the sweep's own run."""
        found = self._search(_query(sweep_name, "sweep"))
        return str(found[0].info.run_id) if found else None

    def _search(self, query: str) -> list[Any]:
        if self.experiment_id is None:
            return []
        runs: list[Any] = []
        token: str | None = None
        with self._reached():
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], query, max_results=5000, order_by=["start_time ASC"], page_token=token
                )
                runs.extend(page)
                token = page.token
                if not token:
                    return runs

    def open_parent(self, sweep: Sweep, text: str, base: Path, profile: str | None = None) -> str:
        """The sweep's own run, made if missing, set RUNNING, with the sweep file as artifact and its profile as tag."""
        run_id = self.parent_run(sweep.name)
        with self._reached():
            if run_id is None:
                tags = {"flatsweep.sweep": sweep.name, "flatsweep.kind": "sweep"} | source_tags(base)
                run_id = str(self.client.create_run(self.experiment_id, run_name=sweep.name, tags=tags).info.run_id)
            else:
                self.client.update_run(run_id, status="RUNNING")
            self.client.set_tag(run_id, "flatsweep.profile", profile or "")
            self.client.log_text(run_id, text, "sweep.yaml")
        return run_id

    def close_parent(self, run_id: str, state: str) -> None:
        """Ends the sweep's own run with the state its driver left it in."""
        from orchestrator.sink import TAG, set_status

        with self._reached():
            self.client.set_tag(run_id, TAG + "state", state)
            set_status(self.client, run_id, state)

    def settle_parent(self, sweep_name: str, state: str) -> str | None:
        """Id of the sweep's own run; it is closed with `state` if a driver that died left it RUNNING."""
        found = self._search(_query(sweep_name, "sweep"))
        if not found:
            return None
        run_id = str(found[0].info.run_id)
        if found[0].info.status == "RUNNING":
            self.close_parent(run_id, state)
        return run_id

    def log_files(self, run_id: str, files: Iterable[Path], folder: str | None = None) -> None:
        """Logs files as artifacts of a run."""
        with self._reached():
            for file in files:
                self.client.log_artifact(run_id, str(file), folder)

    def create_trial_run(self, trial: Trial, evaluation: Evaluation, sweep_name: str, parent: str, base: Path) -> str:
        """A SCHEDULED run with every parameter of a trial; returns its id."""
        tags = {
            "trial_id": trial.trial_id,
            "wanted_evaluation_id": evaluation.evaluation_id,
            "method": trial.method.label(),
            "method_name": trial.method.name,
            "regularizer": trial.regularizer_label,
            "seed": str(trial.seed),
        }
        return self._create_run(trial.label(), trial, "trial.json", tags, sweep_name, parent, base)

    def create_external_run(self, external: External, source: dict[str, str], sweep_name: str, parent: str) -> str:
        """A SCHEDULED run of a network that was not trained here, like a trial's; returns its id.

        Args:
            external: what it is called, and what it is measured with.
            source: where it comes from, recorded as parameters beside those of `external`.
            sweep_name: of the sweep that it is laid beside.
            parent: the sweep's own run.
        """
        tags = {"trial_id": external.external_id, "method": external.method, "method_name": EXTERNAL}
        tags |= {"regularizer": "none", "seed": "0"}
        place = Path.cwd()
        return self._create_run(external.method, external, "external.json", tags, sweep_name, parent, place, source)

    def _create_run(
        self,
        name: str,
        spec: Spec,
        file: str,
        tags: dict[str, str],
        sweep_name: str,
        parent: str,
        base: Path,
        more: Mapping[str, str] | None = None,
    ) -> str:
        """A SCHEDULED run with everything in `spec` as parameters, `more` beside them, and as a file."""
        from mlflow.entities import Param

        from orchestrator.sink import change_mark

        tags = {"sweep": sweep_name, "kind": "trial", "state": "pending", **tags}
        tags = {f"flatsweep.{key}": text for key, text in tags.items()} | source_tags(base)
        values = flatten(spec.model_dump(mode="json")) | dict(more or {})
        params = [Param(key, str(value)[:MAX_PARAM]) for key, value in values.items() if value is not None]
        with self._reached():
            run = self.client.create_run(self.experiment_id, run_name=name, tags={"mlflow.parentRunId": parent, **tags})
            run_id = str(run.info.run_id)
            for low in range(0, len(params), MAX_PARAMS):
                self.client.log_batch(run_id, metrics=[change_mark()], params=params[low : low + MAX_PARAMS])
            self.client.log_dict(run_id, spec.model_dump(mode="json"), file)
            self.client.update_run(run_id, status="SCHEDULED")
        return run_id

    def set_state(self, run_id: str, state: str, tags: dict[str, str] | None = None) -> None:
        """Sets a trial run's state, and tags beside it, from outside the trial."""
        from orchestrator.sink import log_changes, set_status

        with self._reached():
            log_changes(self.client, run_id, tags={**(tags or {}), "state": state})
            set_status(self.client, run_id, state)


def _query(sweep_name: str, kind: str) -> str:
    return f"tags.`flatsweep.sweep` = '{sweep_name}' and tags.`flatsweep.kind` = '{kind}'"


def _like(run: TrialRun) -> str:
    """What runs are asked for that stand as this one does. The store cannot be asked for an absent tag."""
    tags = {name: run.tags.get(name) for name in ("state", "evaluation_id", "error_class")}
    parts = [f"tags.`flatsweep.{name}` = '{text}'" for name, text in tags.items() if text]
    return " and ".join([f"attributes.status = '{run.status}'", *parts])


def _parts(run_ids: Sequence[str]) -> list[Sequence[str]]:
    return [run_ids[low : low + IDS_AT_ONCE] for low in range(0, len(run_ids), IDS_AT_ONCE)]


def _with_ids(run_ids: Sequence[str]) -> str:
    quoted = ",".join(f"'{run_id}'" for run_id in run_ids)
    return f"attributes.run_id IN ({quoted})"


def _trial_run(run: Any) -> TrialRun:
    from orchestrator.sink import CHANGED

    tags = {key.removeprefix("flatsweep."): text for key, text in run.data.tags.items() if key.startswith("flatsweep.")}
    metrics = dict(run.data.metrics)
    changed_ms = int(metrics.pop(CHANGED, 0))
    info = run.info
    return TrialRun.of(
        info.run_id, info.status, tags, metrics, dict(run.data.params), int(info.start_time or 0), changed_ms
    )


def _quiet() -> None:
    """Keeps MLflow's and alembic's chatter away, and its waits short, unless the user set otherwise."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # a server's runs announce themselves on stdout, in the middle of --json
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
