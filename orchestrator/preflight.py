"""Checks before anything is started or written: data, storage, tracking store."""

import os
import socket
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.addresses import is_database, is_server
from orchestrator.errors import UserError
from orchestrator.serving.database import schema_problem
from orchestrator.serving.probe import server_problem
from orchestrator.spec.places import is_address
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking_place import database_file, database_problem, tracking_uri
from workers.failures import StorageError
from workers.storage import Folder


def check(sweep: Sweep, address: str | None = None) -> None:
    """Refuses a sweep that could not run.

    Args:
        sweep: with absolute paths.
        address: of a Ray cluster; RAY_ADDRESS if not given, a local Ray if neither is.

    Raises:
        UserError: with every problem found, one line each.
    """
    problems = [f"data: {obstacle}" for data in sweep.data_sets() if (obstacle := data.obstacle())]
    places = (_storage_problem(sweep.storage), _tracking_problem(sweep), address_problem(address))
    problems += [problem for problem in places if problem]
    if problems:
        raise UserError("\n".join(problems))


def _storage_problem(storage: str) -> str | None:
    return _address_of_storage_problem(storage) if is_address(storage) else _folder_problem(Path(storage))


def _address_of_storage_problem(storage: str) -> str | None:
    """It must be reached, take files, and refuse to replace one when asked to: locks rest on that."""
    name = f"probe-{uuid.uuid4().hex}"
    try:
        folder = Folder(storage)
        try:
            if folder.create(name, b"1") and not folder.create(name, b"2"):
                return None
        finally:
            folder.delete(name)
    except FileNotFoundError as error:
        return f"storage: {storage} cannot be used: {error}"
    except StorageError as error:
        return str(error) if str(error).startswith("storage:") else f"storage: {error}"
    return (
        f"storage: {storage} replaces a file where it is asked not to (a PUT with If-None-Match), so that two workers "
        "could not exclude each other; take a server that does, or a folder"
    )


def _folder_problem(storage: Path) -> str | None:
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
    try:
        uri = tracking_uri(sweep)
    except UserError as error:
        return str(error)
    if (file := database_file(uri)) is not None and (problem := database_problem(file)):
        return problem
    if is_server(uri):
        found = server_problem(uri, sweep.experiment)
    elif is_database(uri):
        found = schema_problem(uri)
    elif urlsplit(uri).scheme in {"", "file"} and not uri.startswith("databricks"):
        found = f"MLflow no longer writes to plain folders ({uri}); use sqlite:///FILE or a server's address"
    else:
        found = None
    return f"tracking: {found}" if found else None


def address_problem(address: str | None) -> str | None:
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
