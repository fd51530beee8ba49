"""Checkpoints that are complete or absent: named by progress and content hash, loaded without unpickling code."""

import hashlib
import io
import logging
import zipfile
from typing import Any

import torch

from workers.layout import HASH_DIGITS, checkpoint_name, parse_checkpoint
from workers.storage import Folder

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints kept: the newest, and the one before in case the newest is damaged."""

MAX_REASON = 500
"""Characters of what torch says about a file."""

State = dict[str, Any]


def save(folder: Folder, epoch: int, batch: int, state: State) -> str:
    """Writes the state reached after `epoch` whole epochs and `batch` batches of the next; removes all but the newest.

    Returns:
        The file's name, which holds the first digits of the content's SHA-256.
    """
    content, content_hash = packed(state)
    name = checkpoint_name(epoch, batch, content_hash)
    folder.write(name, content)
    _remove_old(folder)
    return name


def tidy(folder: Folder, epoch: int, batch: int) -> None:
    """Removes what a `save` that was interrupted left; nothing unless the newest is the one at this progress, which was
    loaded: else it is damaged, and those before it may be needed."""
    found = [parse_checkpoint(name) for name in _listed(folder)[:1]]
    if found and found[0] and found[0][:2] == (epoch, batch):
        _remove_old(folder)


def newest(folder: Folder, device: torch.device) -> State | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning."""
    for name in _listed(folder):
        if (state := unpacked(folder, name, device)) is not None:
            return state
        logger.warning("going back to the checkpoint before %s", name)
    return None


def packed(state: State) -> tuple[bytes, str]:
    """A file's content, and its SHA-256 in hex."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return content, hashlib.sha256(content).hexdigest()


def unpacked(folder: Folder, name: str, device: torch.device) -> State | None:
    """What `packed` gave, from a file whose name ends with the first digits of its hash; None, with a warning, if it
    is damaged. Nothing in it is executed."""
    content = folder.read(name)
    if hashlib.sha256(content).hexdigest()[:HASH_DIGITS] != name.removesuffix(".pt").rsplit("-", 1)[-1]:
        logger.warning("%s/%s is damaged: its hash differs", folder, name)
        return None
    try:
        _check_form(content)
        state: State = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # somebody may have put anything there, and torch raises many for what it cannot read
        logger.warning("%s/%s cannot be read: %s", folder, name, str(error)[:MAX_REASON])
        return None
    return state


def _check_form(content: bytes) -> None:
    """Refuses what `packed` never makes: another format, or an archive that is larger once it is read.

    Raises:
        ValueError: it is of another form, or `zipfile.BadZipFile`.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("its parts are compressed")
    if sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("its parts overlap")


def _remove_old(folder: Folder) -> None:
    folder.delete_files(_listed(folder)[KEPT:])


def _listed(folder: Folder) -> list[str]:
    """Names of the checkpoints, newest first."""
    return sorted((name for name in folder.names() if parse_checkpoint(name)), reverse=True)
