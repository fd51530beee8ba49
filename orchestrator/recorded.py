"""Which sweep a command means: a sweep file, or the name of a sweep that was submitted before."""

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from orchestrator.addresses import refusal
from orchestrator.errors import UserError, suggest
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.sweep import Sweep
from workers.storage import Folder

TEXT_FILE, SWEEP_FILE = "sweep.yaml", "sweep.json"


@dataclass(frozen=True)
class Places:
    """What the command line may say instead of the sweep file, and of it."""

    storage: Path | None = None
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
    if path.suffix in {".yaml", ".yml"} or path.exists():
        file = load_sweep_file(path, places.profile)
    elif places.profile is not None:
        raise UserError(
            f"--profile {places.profile}: '{name}' is no sweep file, and only a file has profiles; give the file, or "
            f"the recorded sweep by its own name, which is '{name}-{places.profile}' unless the profile sets another"
        )
    else:
        file = _recorded(name, places.storage or Path("runs"))
    changes: dict[str, object] = {}
    if places.storage:
        changes["storage"] = str(places.storage.expanduser().absolute())
    if places.tracking_uri:
        if reason := refusal(places.tracking_uri):
            raise UserError(f"--tracking-uri: {reason}")
        changes["tracking"] = file.sweep.tracking.model_copy(update={"uri": places.tracking_uri})
    return replace(file, sweep=file.sweep.model_copy(update=changes))


def _recorded(name: str, storage: Path) -> SweepFile:
    # a path in the name is looked up by its last part only, so that no name leads out of the storage
    folder = storage / Path(name).name / SWEEP_FILE
    if Path(name).name != name or not folder.is_file():
        known = [path.parent.name for path in storage.glob(f"*/{SWEEP_FILE}")]
        hint = suggest(name, known) if known else "nothing was submitted there yet"
        raise UserError(f"no sweep called '{name}' in {storage}: {hint} (or give a sweep file, or --storage)")
    try:
        sweep = Sweep.model_validate_json(folder.read_bytes())
    except ValueError as error:
        found = error.errors() if isinstance(error, ValidationError) else []
        # a package that offered a component is gone, or broken: the file is as it was
        if names := [item["msg"] for item in found if item["type"] in {"unknown_name", "unusable"}]:
            raise UserError(f"{folder}: {'; '.join(names)}") from error
        raise UserError(f"{folder} is damaged; give the sweep file instead") from error
    sweep = sweep.model_copy(update={"storage": str(storage.absolute())})
    return SweepFile(sweep, (folder.parent / TEXT_FILE).read_text(), folder.parent / TEXT_FILE)
