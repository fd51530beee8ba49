"""Where a sweep's numbers come from: versions, commit, data, machines, as the runs recorded them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.addresses import is_server, public
from orchestrator.tracking_place import database_file
from orchestrator.trial_run import TrialRun

HOST = "host"
LABELS = {
    "flatsweep_version": "flatsweep",
    "ray_version": "Ray",
    "mlflow_version": "MLflow",
    "torch": "torch, on the workers",
    "torch_version": "torch, where submitted",
    "python": "Python, on the workers",
    "python_version": "Python, where submitted",
    "git_commit": "Git commit of the sweep file's folder",
    "data_digest": "Digest of the data (SHA-256)",
    HOST: "Hosts, numbered",
    "device": "Devices",
    "threads": "Threads of a trial",
    "evaluation_id": "Evaluation",
}
PACKAGE = re.compile(r"(?P<name>.+)_version")


@dataclass(frozen=True)
class Fact:
    """What the trials recorded under one name."""

    label: str
    values: tuple[tuple[str, int], ...]
    """Each value with the number of trials that have it, the most frequent first."""
    trials: int
    """That recorded any."""


def facts(runs: Sequence[TrialRun]) -> list[Fact]:
    """Versions, commit, data and machines; packages with components of their own among them."""
    tags = set[str]().union(*(run.tags for run in runs))
    known = [*LABELS, *sorted({tag for tag in tags if PACKAGE.fullmatch(tag)} - LABELS.keys())]
    found = []
    for tag in known:
        counts = Counter(run.tags[tag] for run in runs if run.tags.get(tag))
        if tag == HOST:  # a page may be sent to people whom the names of machines do not concern
            counts = Counter({f"host {place}": n for place, (_, n) in enumerate(counts.most_common(), 1)})
        if counts:
            match = PACKAGE.fullmatch(tag)
            label = LABELS.get(tag) or f"Package {match['name'] if match else tag}"
            found.append(Fact(label, tuple(counts.most_common()), counts.total()))
    return found


def shown_store(uri: str, storage: str) -> str:
    """A store's address as a page shows it: without password, and without the folders of the machine it lies on.

    Args:
        uri: MLflow tracking URI.
        storage: the sweep's; what lies in it is shown as `<storage>/...`, any other file by its name.
    """
    file = database_file(uri)
    if file is None:
        return public(uri)
    return f"sqlite: {Path('<storage>') / file.relative_to(storage) if file.is_relative_to(storage) else file.name}"


def run_base(places: Sequence[tuple[str, str | None]]) -> str | None:
    """What stands before a run's id in the address of its page; None where there are none, or in several stores.

    Args:
        places: tracking URI and experiment's id of each sweep.
    """
    uris, experiments = {public(uri).rstrip("/") for uri, _ in places}, {experiment for _, experiment in places}
    uri = uris.pop()
    if uris or None in experiments or not is_server(uri):
        return None
    return f"{uri}/#/runs/" if len(experiments) > 1 else f"{uri}/#/experiments/{experiments.pop()}/runs/"
