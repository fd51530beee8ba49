"""Finds a sweep by its name in a tracking store, for machines that do not see its storage."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.errors import UserError
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import RESOLVED_FILE, SWEEP_TEXT, sweep_query
from orchestrator.tracking_place import reached

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sweep_from_store(name: str, uri: str) -> SweepFile | None:
    """The sweep of that name that was made last, as its own run holds it; None where there is none.

    Args:
        name: of the sweep.
        uri: of the tracking store, which exists.

    Raises:
        UserError: the store cannot be reached, or what it holds is of another version.
    """
    with reached(uri):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, sweep_query(name), max_results=1, order_by=["start_time DESC"])
        if not runs:
            return None
        text, resolved = (_artifact(client, runs[0].info.run_id, file) for file in (SWEEP_TEXT, RESOLVED_FILE))
    try:
        sweep = Sweep.model_validate_json(resolved)
    except ValidationError as error:
        raise UserError(
            f"sweep '{name}' was recorded in {uri} by another version of flatsweep; give the sweep file instead"
        ) from error
    here = sweep.model_copy(update={"tracking": sweep.tracking.model_copy(update={"uri": uri})})
    # its name stands for the file, which may be anywhere
    return SweepFile(here, text, Path(name), read_at_commit="")


def _artifact(client: "MlflowClient", run_id: str, name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="flatsweep-") as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_text()
