"""Which sweep a command means: a sweep file, or the name of a sweep that was submitted before."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from orchestrator.addresses import refusal
from orchestrator.errors import UserError, suggest
from orchestrator.local_folder import local_folder
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.places import is_address, located_storage, storage_problem
from orchestrator.spec.sweep import NAME_PATTERN, Sweep
from orchestrator.tracking_place import database_file
from workers.storage import Folder

TEXT_FILE, SWEEP_FILE = "sweep.yaml", "sweep.json"


@dataclass(frozen=True)
class Places:
    """What the command line may say instead of the sweep file, and of it."""

    storage: str | None = None
    """A folder, or an address such as s3://bucket/prefix."""
    tracking_uri: str | None = None
    profile: str | None = None
    """One of the sweep file's profiles."""


def remember(file: SweepFile) -> None:
    """Keeps the sweep file, as written and with absolute paths, in the sweep's folder."""
    folder = Folder(f"{file.sweep.storage}/{file.sweep.name}")
    folder.write(TEXT_FILE, file.text.encode())
    folder.write(SWEEP_FILE, file.sweep.model_dump_json(indent=2).encode())


def open_sweep(name: str, places: Places) -> SweepFile:
    """The sweep that `name` means: an existing file or *.yaml is read, anything else is looked up in the storage.

    Raises:
        UserError: no such file or recorded sweep, the file is wrong, it has no such profile, or the tracking URI has
            a password in it.
    """
    path = Path(name)
    # os.path: a name that is too long for a file, or holds NUL, is no file, and no error
    if path.suffix in {".yaml", ".yml"} or os.path.exists(name):  # noqa: PTH110
        file = load_sweep_file(path, places.profile)
    elif places.profile is not None:
        raise UserError(
            f"--profile {places.profile}: '{name}' is no sweep file, and only a file has profiles; give the file, or "
            f"the recorded sweep by its own name, which is '{name}-{places.profile}' unless the profile sets another"
        )
    else:
        file = _from_named_store(name, places) or _recorded(name, places.storage or "runs")
    changes: dict[str, object] = {}
    if places.storage:
        changes["storage"] = _located(places.storage)
    if places.tracking_uri:
        if reason := refusal(places.tracking_uri):
            raise UserError(f"--tracking-uri: {reason}")
        changes["tracking"] = file.sweep.tracking.model_copy(update={"uri": places.tracking_uri})
    return replace(file, sweep=file.sweep.model_copy(update=changes))


def _from_named_store(name: str, places: Places) -> SweepFile | None:
    """From the tracking store that the command line or the environment names, unless its storage is at hand."""
    uri = places.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri or database_file(uri) or not _is_plain(name):
        return None
    if (Folder(_located(places.storage or "runs")) / name).exists(SWEEP_FILE):
        return None
    from orchestrator.lookup import sweep_from_store

    return sweep_from_store(name, uri)


def _is_plain(name: str) -> bool:
    """Whether it may be a sweep's: no other name is looked up, so that none leads out of the storage."""
    return NAME_PATTERN.fullmatch(name) is not None and ".." not in name


def _located(storage: str) -> str:
    """What `--storage` says, made absolute."""
    if problem := storage_problem(storage):
        raise UserError(f"--storage: {problem}")
    try:
        return located_storage(storage, Path.cwd())
    except RuntimeError as error:  # a home folder that cannot be found
        raise UserError(f"--storage {storage}: not a folder: {error}") from error


def _recorded(name: str, given: str) -> SweepFile:
    storage = _located(given)
    root = Folder(storage)
    if not _is_plain(name) or not (root / name).exists(SWEEP_FILE):
        known = [other for other in root.names() if (root / other).exists(SWEEP_FILE)]
        hint = suggest(name, known) if known else "nothing was submitted there yet"
        raise UserError(f"no sweep called '{name[:200]}' in {given}: {hint} (or give a sweep file, or --storage)")
    folder = root / name
    try:
        sweep = Sweep.model_validate_json(folder.read(SWEEP_FILE))
    except ValueError as error:
        found = error.errors() if isinstance(error, ValidationError) else []
        # a package that offered a component is gone, or broken: the file is as it was
        if names := [item["msg"] for item in found if item["type"] in {"unknown_name", "unusable"}]:
            raise UserError(f"{folder}/{SWEEP_FILE}: {'; '.join(names)}") from error
        raise UserError(f"{folder}/{SWEEP_FILE} is damaged; give the sweep file instead") from error
    if sweep.name != name:
        raise UserError(f"{folder}/{SWEEP_FILE} is of a sweep called '{sweep.name}'; give the sweep file instead")
    sweep = sweep.model_copy(update={"storage": storage})
    try:
        text = folder.read(TEXT_FILE).decode()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/{TEXT_FILE} is gone or damaged; give the sweep file instead") from error
    return SweepFile(sweep, text, local_folder(sweep) / TEXT_FILE, storage=storage if is_address(storage) else None)
