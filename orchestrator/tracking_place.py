"""Where a sweep is recorded, and what keeps a store there from being used; nothing of MLflow is imported but to ask."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.addresses import hidden, shown, with_driver
from orchestrator.errors import StoreError, UserError
from orchestrator.spec.places import is_address
from orchestrator.spec.sweep import Sweep

DATABASE, ARTIFACTS = "mlflow.db", "artifacts"


def tracking_uri(sweep: Sweep) -> str:
    """Where a sweep is recorded: its own `tracking.uri`, else MLFLOW_TRACKING_URI, else SQLite in its storage.

    Raises:
        UserError: neither is given, and the storage is no folder that could hold SQLite.
    """
    if given := sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return with_driver(given)
    if is_address(sweep.storage):
        raise UserError(
            f"tracking: SQLite cannot lie in {sweep.storage}; say where runs are recorded: tracking.uri in the sweep "
            "file, --tracking-uri or MLFLOW_TRACKING_URI, a server's address or sqlite:////a/file/of/this/machine.db"
        )
    return f"sqlite:///{sweep.storage}/{DATABASE}"


def artifacts_uri(sweep: Sweep, database: Path | None) -> str:
    """URI of the folder of artifacts: in the storage; if that is elsewhere, beside an SQLite file of this machine."""
    if not is_address(sweep.storage):
        return Path(sweep.storage, ARTIFACTS).as_uri()
    return (database.absolute().parent / ARTIFACTS).as_uri() if database else f"{sweep.storage}/{ARTIFACTS}"


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


@contextlib.contextmanager
def reached(uri: str) -> Iterator[None]:
    """What goes wrong with a store inside is said in one sentence, as StoreError, and without MLflow's long waits."""
    quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = hidden(str(error), uri).splitlines()[0][:300]
        raise StoreError(f"the tracking store {shown(uri)} cannot be used: {reason}") from error


def quiet() -> None:
    """Keeps MLflow's and alembic's chatter away, and its waits short, unless the user set otherwise."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # a server's runs announce themselves on stdout, in the middle of --json
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # a sweep's file comes from a server as an artifact, with a bar for each
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
