"""Checkpoints that are complete or absent: named by progress and content hash, loaded without unpickling code."""

import hashlib
import io
import logging
import pickle
from typing import Any

import torch

from workers.layout import HASH_DIGITS, checkpoint_name, parse_checkpoint
from workers.storage import Folder

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints kept: the newest, and the one before in case the newest is damaged."""

State = dict[str, Any]


def save(folder: Folder, epoch: int, batch: int, state: State) -> str:
    """Writes the state reached after `epoch` whole epochs and `batch` batches of the next; removes all but the newest.

    Returns:
        The file's name, which holds the first digits of the content's SHA-256.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    name = checkpoint_name(epoch, batch, hashlib.sha256(content).hexdigest())
    folder.write(name, content)
    for old in _listed(folder)[KEPT:]:
        folder.delete(old)
    return name


def newest(folder: Folder, device: torch.device) -> State | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning."""
    for name in _listed(folder):
        content = folder.read(name)
        parsed = parse_checkpoint(name)
        if parsed is None or hashlib.sha256(content).hexdigest()[:HASH_DIGITS] != parsed[2]:
            logger.warning("checkpoint %s/%s is damaged (hash differs); going back to the one before", folder, name)
            continue
        try:
            state: State = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            logger.warning("checkpoint %s/%s cannot be read: %s; going back to the one before", folder, name, error)
            continue
        return state
    return None


def _listed(folder: Folder) -> list[str]:
    """Names of the checkpoints, newest first."""
    return sorted((name for name in folder.names() if parse_checkpoint(name)), reverse=True)
