"""Checks before anything is started or written: data, storage, tracking store."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.addresses import is_server
from orchestrator.errors import UserError
from orchestrator.serving.database import schema_problem
from orchestrator.serving.probe import server_problem
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import database_file, database_problem, tracking_uri


def check(sweep: Sweep, address: str | None = None) -> None:
    """Refuses a sweep that could not run.

    Args:
        sweep: with absolute paths.
        address: of a Ray cluster; RAY_ADDRESS if not given, a local Ray if neither is.

    Raises:
        UserError: with every problem found, one line each.
    """
    problems = [f"data: {obstacle}" for data in sweep.data_sets() if (obstacle := data.obstacle())]
    places = (_storage_problem(Path(sweep.storage)), _tracking_problem(sweep), _address_problem(address))
    problems += [problem for problem in places if problem]
    if problems:
        raise UserError("\n".join(problems))


def _storage_problem(storage: Path) -> str | None:
    """A folder that exists must be writable; one that does not must have a writable parent to be made in."""
    nearest = storage
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"storage: {nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK) or _is_pseudo(nearest):
        return f"storage: no permission to write in {nearest}"
    return None


def _is_pseudo(folder: Path) -> bool:
    # for root, access() grants what the kernel's own file systems then refuse
    return folder.is_relative_to("/proc") or folder.is_relative_to("/sys")


def _tracking_problem(sweep: Sweep) -> str | None:
    uri = tracking_uri(sweep)
    if (file := database_file(uri)) is not None and (problem := database_problem(file)):
        return problem
    scheme = urlsplit(uri).scheme
    if is_server(uri):
        found = server_problem(uri, sweep.experiment)
    elif scheme in {"", "file"}:
        found = f"MLflow no longer writes to plain folders ({uri}); use sqlite:///FILE or a server's address"
    else:
        found = None if scheme == "databricks" else schema_problem(uri)
    return f"tracking: {found}" if found else None


def _address_problem(address: str | None) -> str | None:
    """Ray itself tries an address where nobody listens for many minutes."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address or address in {"local", "auto"}:
        return None
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in {"", "ray"} or not host or (port is None and not parts.scheme):
        return f"address: '{address}' is no address of a Ray cluster; give host:port, such as 10.0.0.5:6379"
    try:
        with socket.create_connection((host, port or 10001), timeout=5):
            return None
    except OSError as error:
        return f"address: no answer from Ray at {address}: {error}"
