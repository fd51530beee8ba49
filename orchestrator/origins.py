"""What code made which runs, and when: noted in the storage, as a store that is lost takes its own word with it.

Trials are noted in the sweep's folder, by the one driver; a network from elsewhere in its own folder.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.journal import Journal, Record, read_records
from workers.sealed import sealed, unsealed
from workers.storage import Folder

logger = logging.getLogger(__name__)

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
    for record in read_records(sweep_folder):
        if record.key == KEY:
            try:
                said = unsealed(record.text.encode(errors="replace"), trials=list, tags=dict, profile=str)
                origin = Origin(_texts(said["tags"]), {}, said["profile"], record.time_ms)
            except ValueError as error:
                logger.warning("%s: a note of which code made runs is damaged and left out: %s", sweep_folder, error)
                continue
            for trial_id in filter(_is_text, said["trials"]):
                found.pop(trial_id, None)
                found[trial_id] = origin
    return found


def note_external(folder: Folder, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
    """Notes that the run of a network from elsewhere is made now, in the network's folder."""
    content = {"tags": dict(tags), "params": dict(params), "made_ms": int(time.time() * 1000)}
    folder.write(FILE, sealed(content, indent=2))


def noted_external(folder: Folder) -> Origin | None:
    """None where an earlier version made the run, or what it noted is damaged."""
    if not folder.exists(FILE):
        return None
    try:
        said = unsealed(folder.read(FILE), tags=dict, params=dict, made_ms=int)
        return Origin(_texts(said["tags"]), _texts(said["params"]), "", said["made_ms"])
    except ValueError as error:
        logger.warning("%s/%s is damaged and left out: %s", folder, FILE, error)
        return None


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    """Raises ValueError where a value is no text."""
    if not all(map(_is_text, found.values())):
        raise ValueError("a value is no text")
    return dict(found)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
