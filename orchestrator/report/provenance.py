"""Where a sweep's numbers come from: versions, commit, data, machines, as the runs recorded them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.addresses import is_server, public
from orchestrator.tracking import TrialRun

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
    "host": "Hosts",
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
    known = [*LABELS, *sorted({tag for run in runs for tag in run.tags if PACKAGE.fullmatch(tag)} - LABELS.keys())]
    found = []
    for tag in known:
        counts = Counter(run.tags[tag] for run in runs if run.tags.get(tag))
        if counts:
            match = PACKAGE.fullmatch(tag)
            label = LABELS.get(tag) or f"Package {match['name'] if match else tag}"
            found.append(Fact(label, tuple(counts.most_common()), counts.total()))
    return found


def run_base(uri: str, experiment_id: str | None) -> str | None:
    """What stands before a run's id in the address of its page; None where the store has no pages."""
    if experiment_id is None or not is_server(uri):
        return None
    return f"{public(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/"
