"""Ray for the time of a sweep: a local one of our own, or a connection to a cluster. Nothing is kept in it alone."""

import contextlib
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError

SCRATCH_PREFIX, SCRATCH_NOTE = "flatsweep-", ".driver.scratch"
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable, read at import (ray._private.ray_constants): at 0 a Ray takes itself for one machine's."""
START_ATTEMPTS = 3

logger = logging.getLogger(__name__)


def left_scratch(folder_here: Path) -> Path | None:
    """The scratch folder that a driver noted in this machine's folder of a sweep; once it is dead, nobody needs it."""
    note = folder_here / SCRATCH_NOTE
    if not note.exists():
        return None
    left = Path(note.read_bytes().replace(b"\0", b"").decode(errors="replace"))
    # the note lies in the storage, where others may write: nothing but what `scratch_folder` makes is removed
    return left if left.name.startswith(SCRATCH_PREFIX) and left.parent == Path(tempfile.gettempdir()) else None


@contextlib.contextmanager
def scratch_folder(folder_here: Path) -> Iterator[Path]:
    """A folder for what Ray writes; nothing in it is needed afterwards. Its path is short, as sockets' paths must be.

    A killed driver leaves its own behind: the next one finds it noted in this machine's folder of the sweep and
    removes it.
    """
    folder_here.mkdir(parents=True, exist_ok=True)
    note = folder_here / SCRATCH_NOTE
    if (left := left_scratch(folder_here)) is not None:
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    note.write_text(str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def ray_session(address: str | None, scratch: Path) -> Iterator[None]:
    """A connection to the cluster at `address` or RAY_ADDRESS, or a Ray of our own that is stopped again."""
    address = _chosen(address)
    # before ray is imported: it reads these at import, and its processes inherit them
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Tune's own record of the experiment is for Tuner.restore, which flatsweep does not use
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's newer reporter prints tables whatever the verbosity
    # side by side, threads that spin while they wait take the cores from those that work
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with contextlib.ExitStack() as ours:
        if address == "local":
            # a Ray of our own that was killed does not come back: its driver ends soon, not after a minute
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")
            ours.enter_context(_on_loopback())
            ours.enter_context(_in_groups_of_their_own())
        ours.enter_context(_connected(address, scratch))
        yield


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's processes listen on the loopback address alone, as they do on macOS and Windows; else on every one."""
    from ray._private import ray_constants

    users, before = os.environ.get(LOOPBACK_SWITCH), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_SWITCH], ray_constants.ENABLE_RAY_CLUSTER = "0", False  # for Ray's processes, and for this one
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(LOOPBACK_SWITCH)
        if users is not None:
            os.environ[LOOPBACK_SWITCH] = users


@contextlib.contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Ray's processes do not get the signals that are sent to our process group, as some batch systems send SIGTERM:
    they have to live until the trials have saved their checkpoints. Ray itself does this on Windows only."""
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = functools.partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextlib.contextmanager
def _connected(address: str, scratch: Path) -> Iterator[None]:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "local":
        options |= {"include_dashboard": False, "_temp_dir": str(scratch / "ray"), "object_store_memory": 100 * 2**20}
    _init(address, options)
    # a lost worker is shown by the live view and recorded; Tune's traceback of it says nothing more
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, options: dict[str, Any]) -> None:
    """`ray.init`, once more where a busy machine was too slow: Ray gives its own Python processes 15 s to begin, which
    no setting changes (github.com/ray-project/ray/issues/65983)."""
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            # Ray raises a bare Exception where a node is late, and its own kinds for everything else
            late = type(error) is Exception and "timed out during startup" in str(error)
            if not late and not isinstance(error, (ConnectionError, ValueError, RuntimeError, OSError)):
                raise
            ray.shutdown()
            if not late or attempt == START_ATTEMPTS:
                raise UserError(f"cannot use Ray at '{address}': {str(error).splitlines()[0]}") from error
            logger.warning("Ray did not start in time, trying again: is this machine very busy?")


def is_local(address: str | None) -> bool:
    """Whether a Ray is started for the sweep alone."""
    return _chosen(address) == "local"


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"
