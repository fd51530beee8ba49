"""What the storage holds of a sweep: for each trial, and each network from elsewhere, what its run is to hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.origins import Origin, noted, noted_external
from orchestrator.run_content import RunContent
from orchestrator.sink import STATUS
from orchestrator.spec.external import External
from orchestrator.spec.sweep import Sweep, Trial
from orchestrator.trial_run import TrialRun
from workers import layout
from workers.journal import FILE as JOURNAL
from workers.journal import Record, read_records
from workers.storage import Folder


class Left(NamedTuple):
    """What is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Stored:
    """The folder of a trial, or of a network from elsewhere."""

    trial_id: str
    label: str
    folder: Folder
    content: RunContent
    origin: Origin
    is_external: bool = False


def trial_folder_names(root: Folder, names: list[str]) -> Iterator[str]:
    """Those of a sweep's folders that are of a trial or of a network from elsewhere; not what a rerun put aside."""
    for name in names:
        inside = () if "." in name else (root / name).names()
        if not {layout.TRIAL, layout.EXTERNAL, JOURNAL}.isdisjoint(inside):
            yield name


def stored_runs(sweep: Sweep) -> tuple[list[Stored], list[Left]]:
    """What the storage holds, in the order of the grid, then what is no longer in it; and what cannot be used."""
    root = Folder(sweep.storage) / sweep.name
    grid = {trial.trial_id: trial for trial in (*sweep.teachers(), *sweep.trials())}
    origins = noted(root)
    order = {trial_id: place for place, trial_id in enumerate(grid)}
    names = sorted(root.names(), key=lambda name: (order.get(name, len(order)), name))
    found: list[Stored] = []
    left: list[Left] = []
    for name in trial_folder_names(root, names):
        one = _stored(sweep, root / name, name, grid.get(name), origins.get(name, Origin()))
        if isinstance(one, Left):
            left.append(one)
        else:
            found.append(one)
    return found, left


def stored_trial_runs(sweep: Sweep) -> list[TrialRun]:
    """What the runs of a sweep would hold if everything in the storage were sent; they have no ids."""
    return [_as_run(stored) for stored in stored_runs(sweep)[0]]


def _as_run(stored: Stored) -> TrialRun:
    records = read_records(stored.folder)
    metrics: dict[str, tuple[int, int, float]] = {}
    for record in records:
        if record.kind == "metric":  # MLflow's newest value is that of the last step
            metrics[record.key] = max(metrics.get(record.key, (-1, -1, 0.0)), _place(record), key=lambda at: at[:2])
    states = [record.text for record in records if record.kind == "state"]
    tags = {record.key: record.text for record in records if record.kind == "tag"}
    tags = stored.content.tags | tags | {"state": states[-1] if states else "pending"}
    values = {key: value for key, (_, _, value) in metrics.items()}
    return TrialRun.of("", STATUS[tags["state"]], tags, values, dict(stored.content.params), 0, 0)


def _place(record: Record) -> tuple[int, int, float]:
    return record.step, record.time_ms, record.value


def _stored(sweep: Sweep, folder: Folder, name: str, trial: Trial | None, origin: Origin) -> Stored | Left:
    try:
        if folder.exists(layout.EXTERNAL):
            return _external(folder, name)
        if trial is None:  # the sweep file has another grid by now
            trial = Trial.model_validate_json(folder.read(layout.TRIAL))
    except FileNotFoundError:
        return Left(name, f"it has no {layout.TRIAL}, and the sweep has no such trial")
    except ValidationError as error:
        return Left(name, f"what it is of cannot be read: {error.errors()[0]['msg']}")
    if trial.trial_id != name:
        return Left(name, f"its {layout.TRIAL} is that of trial {trial.trial_id}")
    content = RunContent.of_trial(trial, sweep.evaluation)
    return Stored(name, f"{trial.cell} | seed {trial.seed}", folder, content, origin)


def _external(folder: Folder, name: str) -> Stored | Left:
    external = External.model_validate_json(folder.read(layout.EXTERNAL))
    if external.external_id != name:
        return Left(name, f"its {layout.EXTERNAL} is that of network {external.external_id}")
    origin = noted_external(folder) or Origin()
    content = RunContent.of_external(external, origin.params)
    return Stored(name, external.method, folder, content, origin, is_external=True)
