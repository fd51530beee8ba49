"""Everything that is asked of the MLflow store: a sweep's runs, their states, their making and closing.

One experiment holds a sweep: a parent run with the sweep file, the table and the figures, and one run for each trial,
for ever: another attempt continues it.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.addresses import is_database, is_server
from orchestrator.errors import StoreError
from orchestrator.run_content import RunContent
from orchestrator.serving.database import schema_problem
from orchestrator.spec.base import digest
from orchestrator.spec.sweep import NAME_PATTERN, Evaluation, Sweep, Trial
from orchestrator.tracking_place import artifacts_uri, database_file, database_problem, reached, tracking_uri
from orchestrator.trial_run import TrialRun
from orchestrator.versions import source_tags
from workers import faults

MAX_PARAMS = 100
"""MLflow's limit: params in a batch."""
IDS_AT_ONCE = 1000
"""Ids of runs in one question: the parser of MLflow's filters is slow, and databases limit what one may hold."""
SWEEP_TEXT, RESOLVED_FILE = "sweep.yaml", "sweep.json"
"""Artifacts of a sweep's own run: the sweep file as written, and the sweep with absolute paths."""


class Store:
    """The tracking store of one sweep.

    Args:
        uri: MLflow tracking URI.
        experiment: the experiment's name.
        artifacts: URI of a folder for artifacts of a store without a server.

    Raises:
        StoreError: the store cannot be reached.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str) -> None:
        self.uri, self.experiment, self._artifacts = uri, experiment, artifacts
        with self.reached():
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
                raise StoreError(problem)
            file.parent.mkdir(parents=True, exist_ok=True)
        elif is_database(uri) and (problem := schema_problem(uri)):  # likewise
            raise StoreError(f"tracking: {problem}")
        return cls(uri, sweep.experiment, artifacts_uri(sweep, file))

    @classmethod
    def existing(cls, sweep: Sweep) -> "Store | None":
        """The store of a sweep, or None where an SQLite store was not made yet."""
        file = database_file(tracking_uri(sweep))
        return None if file is not None and not file.exists() else cls.of(sweep)

    def reached(self) -> contextlib.AbstractContextManager[None]:
        """Around whatever asks the store: what it cannot do is a UserError."""
        return reached(self.uri)

    def prepare(self) -> None:
        """Makes the experiment if it does not exist."""
        with self.reached():
            if self.experiment_id is None:
                served = is_server(self.uri) or self.uri.startswith("databricks")
                place = None if served else f"{self._artifacts}/{_folder_name(self.experiment)}"
                self.experiment_id = self.client.create_experiment(self.experiment, artifact_location=place)

    def trial_runs(self, sweep_name: str) -> list[TrialRun]:
        """All trial runs of a sweep, oldest first; runs deleted in MLflow are not among them."""
        return [TrialRun.of_mlflow(run) for run in self._search(_query(sweep_name, "trial"))]

    def changed_runs(self, sweep_name: str, since_ms: int) -> list[TrialRun]:
        """The trial runs of a sweep that flatsweep changed after a time, in ms since 1970."""
        from orchestrator.sink import CHANGED

        query = f"{_query(sweep_name, 'trial')} and metrics.`{CHANGED}` > {since_ms}"
        return [TrialRun.of_mlflow(run) for run in self._search(query)]

    def runs_by_id(self, run_ids: Sequence[str]) -> list[TrialRun]:
        """The trial runs with these ids, as far as they are there."""
        return [TrialRun.of_mlflow(run) for ids in _parts(run_ids) for run in self._search(_with_ids(ids))]

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

    def count_differs(self, sweep_name: str, count: int) -> bool:
        """Whether a sweep has another number of trial runs; they are not fetched."""
        return not self._counts(_query(sweep_name, "trial"), count)

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
        with self.reached():
            for key in keys if curves else ():
                for point in self.client.get_metric_history(run.run_id, prefix + key):
                    if point.step in curves:
                        curves[point.step][key] = point.value
        return replace(run, curves=curves)

    def tagged(self, sweep_name: str, tag: str, text: str) -> list[Any]:
        """The runs of a sweep, its own among them, that have a tag of ours with this text; as MLflow has them."""
        return self._search(f"tags.`flatsweep.sweep` = '{sweep_name}' and tags.`flatsweep.{tag}` = '{text}'")

    def history(self, run_id: str, key: str) -> list[Any]:
        """Every point of a metric of a run, as MLflow has them: key, value, step, timestamp in ms since 1970."""
        with self.reached():
            return list(self.client.get_metric_history(run_id, key))

    def is_driven(self, sweep_name: str) -> bool:
        """Whether the sweep's own run says that a driver has it; one that was killed may have left it so."""
        return any(run.info.status == "RUNNING" for run in self._search(sweep_query(sweep_name)))

    def parents(self, sweep_name: str) -> list[Any]:
        """The sweep's own run, as MLflow has it, and its twins if it has some (`orchestrator.twins`)."""
        return self._search(sweep_query(sweep_name))

    def parent_run(self, sweep_name: str) -> str | None:
        """Id of the sweep's own run."""
        found = self.parents(sweep_name)
        return str(found[0].info.run_id) if found else None

    def _search(self, query: str) -> list[Any]:
        if self.experiment_id is None:
            return []
        runs: list[Any] = []
        token: str | None = None
        with self.reached():
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], query, max_results=5000, order_by=["start_time ASC"], page_token=token
                )
                runs.extend(page)
                token = page.token
                if not token:
                    return runs

    def open_parent(self, sweep: Sweep, text: str, commit: str, profile: str | None = None) -> str:
        """The sweep's own run, made if missing, set RUNNING, with the sweep file as artifact and its profile as tag."""
        run_id = self.parent_run(sweep.name)
        if run_id is None:
            return self.create_parent(sweep, text, source_tags(commit), profile)
        with self.reached():
            self.client.update_run(run_id, status="RUNNING")
            self.client.set_tag(run_id, "flatsweep.profile", profile or "")
        self.log_sweep(run_id, sweep, text)
        return run_id

    def create_parent(
        self, sweep: Sweep, text: str, source: Mapping[str, str], profile: str | None, made_ms: int | None = None
    ) -> str:
        """A sweep's own run, RUNNING, with the sweep file as artifact; `source` and `made_ms` as in `create_run`."""
        tags = {"flatsweep.sweep": sweep.name, "flatsweep.kind": "sweep", "flatsweep.profile": profile or "", **source}
        with self.reached():
            run = self.client.create_run(self.experiment_id, start_time=made_ms, run_name=sweep.name, tags=tags)
            self.log_sweep(str(run.info.run_id), sweep, text)
        return str(run.info.run_id)

    def log_sweep(self, run_id: str, sweep: Sweep, text: str) -> None:
        """Keeps the sweep file, as written and with absolute paths, as artifacts of the sweep's own run."""
        with self.reached():
            self.client.log_text(run_id, text, SWEEP_TEXT)
            self.client.log_text(run_id, sweep.model_dump_json(indent=2), RESOLVED_FILE)

    def close_parent(self, run_id: str, state: str, ended_ms: int | None = None) -> None:
        """Ends the sweep's own run with the state its driver left it in, now or in ms since 1970."""
        from orchestrator.sink import TAG, set_status

        with self.reached():
            self.client.set_tag(run_id, TAG + "state", state)
            set_status(self.client, run_id, state, ended_ms)

    def settle_parent(self, sweep_name: str, state: str) -> str | None:
        """Id of the sweep's own run, brought in line with `state`: that of a driver that died still says RUNNING, and
        one that failed at the very end does not know that all is finished."""
        found = self._search(sweep_query(sweep_name))
        if not found:
            return None
        run_id = str(found[0].info.run_id)
        status = found[0].info.status
        if status == "RUNNING" or (state == "finished" and status != "FINISHED"):
            self.close_parent(run_id, state)
        return run_id

    def log_files(self, run_id: str, files: Iterable[Path], folder: str | None = None) -> None:
        """Logs files as artifacts of a run."""
        with self.reached():
            for file in files:
                self.client.log_artifact(run_id, str(file), folder)

    def create_trial_run(self, trial: Trial, evaluation: Evaluation, sweep_name: str, parent: str, commit: str) -> str:
        """A SCHEDULED run with every parameter of a trial; returns its id."""
        return self.create_run(RunContent.of_trial(trial, evaluation), sweep_name, parent, source_tags(commit))

    def create_run(
        self, content: RunContent, sweep_name: str, parent: str, source: Mapping[str, str], made_ms: int | None = None
    ) -> str:
        """A SCHEDULED run, with everything in `content`; returns its id.

        Args:
            content: what it holds.
            sweep_name: of its sweep.
            parent: the sweep's own run.
            source: tags that say what code makes it, as `source_tags` gives them.
            made_ms: when it was made, in ms since 1970; now if not given.
        """
        tags = {"sweep": sweep_name, "kind": "trial", "state": "pending", **content.tags}
        tags = {"mlflow.parentRunId": parent} | {f"flatsweep.{key}": text for key, text in tags.items()} | dict(source)
        with self.reached():
            run = self.client.create_run(self.experiment_id, start_time=made_ms, run_name=content.name, tags=tags)
            run_id = str(run.info.run_id)
            faults.point("run/created", run_id)
            self._fill(run_id, content, content.params)
        return run_id

    def complete_run(self, run: TrialRun, content: RunContent) -> None:
        """Gives a run what it lacks because its driver died while it made it; nothing to a trial that has begun."""
        lacks = {key: text for key, text in content.params.items() if key not in run.params}
        if lacks and not run.tags.get("attempt"):
            with self.reached():
                self._fill(run.run_id, content, lacks)

    def _fill(self, run_id: str, content: RunContent, params: Mapping[str, str]) -> None:
        """The file, then the parameters: a run that has them all is complete."""
        from mlflow.entities import Param

        from orchestrator.sink import change_mark

        listed = [Param(key, text) for key, text in params.items()]
        self.client.log_dict(run_id, content.data, content.file)
        faults.point("run/file", run_id)
        for low in range(0, len(listed), MAX_PARAMS):
            self.client.log_batch(run_id, metrics=[change_mark()], params=listed[low : low + MAX_PARAMS])
        self.client.update_run(run_id, status="SCHEDULED")

    def set_state(self, run_id: str, state: str, tags: dict[str, str] | None = None) -> None:
        """Sets a trial run's state, and tags beside it, from outside the trial."""
        from orchestrator.sink import log_changes, set_status

        with self.reached():
            log_changes(self.client, run_id, tags={**(tags or {}), "state": state})
            set_status(self.client, run_id, state)


def sweep_query(sweep_name: str) -> str:
    """MLflow's filter for a sweep's own run."""
    return _query(sweep_name, "sweep")


def _folder_name(experiment: str) -> str:
    """An experiment's name as that of one folder: one that is no plain name, such as `../x`, becomes one."""
    if NAME_PATTERN.fullmatch(experiment):
        return experiment
    return f"{re.sub('[^A-Za-z0-9]+', '-', experiment)[:50].strip('-')}-{digest(experiment)}"


def _query(sweep_name: str, kind: str) -> str:
    """The runs of one kind of a sweep.

    Raises:
        ValueError: the name is none that a sweep can have; MLflow's filters have no way to write every text.
    """
    if not NAME_PATTERN.fullmatch(sweep_name):
        raise ValueError(f"{sweep_name!r} is not a sweep's name")
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
