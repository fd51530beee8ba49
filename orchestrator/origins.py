"""What code made which runs, and when: noted in the storage, as a store that is lost takes its own word with it.

Trials are noted in the sweep's folder, by the one driver; a network from elsewhere in its own folder.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workers.journal import Journal, Record
from workers.storage import Folder

KEY = "made"
FILE = "source.json"


@dataclass(frozen=True)
class Origin:
    """Of one run."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """As `versions.source_tags` gives them."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Where a network from elsewhere comes from."""
    profile: str = ""
    """Of the sweep file, that was asked for."""
    made_ms: int | None = None
    """In ms since 1970."""


def note(sweep_folder: Folder, trial_ids: Iterable[str], tags: Mapping[str, str], profile: str | None) -> None:
    """Notes that runs of these trials are made now. Only for the sweep's one driver."""
    if ids := list(trial_ids):
        text = json.dumps({"trials": ids, "tags": dict(tags), "profile": profile or ""})
        Journal(sweep_folder).add([Record("tag", KEY, text=text)])


def noted(sweep_folder: Folder) -> dict[str, Origin]:
    """By trial id, the last one of each in the order of time; nothing of runs that an earlier version made."""
    found: dict[str, Origin] = {}
    for record in Journal(sweep_folder).records:
        if record.key == KEY:
            said = json.loads(record.text)
            origin = Origin(said["tags"], {}, said["profile"], record.time_ms)
            for trial_id in said["trials"]:
                found.pop(trial_id, None)
                found[trial_id] = origin
    return found


def note_external(folder: Folder, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
    """Notes that the run of a network from elsewhere is made now, in the network's folder."""
    content = {"tags": dict(tags), "params": dict(params), "made_ms": int(time.time() * 1000)}
    folder.write(FILE, json.dumps(content, indent=2).encode())


def noted_external(folder: Folder) -> Origin | None:
    """None where an earlier version made the run."""
    if not folder.exists(FILE):
        return None
    said = json.loads(folder.read(FILE))
    return Origin(said["tags"], said["params"], "", said["made_ms"])
