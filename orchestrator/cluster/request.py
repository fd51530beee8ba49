"""What a client asks of a cluster: written to a folder that travels with the Ray job, read by the driver there."""

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from orchestrator.errors import UserError
from orchestrator.limits import Limits
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.versions import Code, own_code

FILE = "request.json"
EVENT = "@flatsweep "
"""Begins the lines of the driver's output that are for the client, not for its user."""


class Options(BaseModel):
    """What a command asks beside the sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: tuple[str, ...] = ()
    """`rerun`: ids, or their first digits."""
    error_class: str | None = None
    from_scratch: bool = False
    evaluation: Evaluation | None = None
    """`evaluate`: with what to measure."""
    correlate: bool = False
    limits: Limits = Limits()
    as_json: bool = False


class Request(BaseModel):
    """One command on one sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["submit", "rerun", "evaluate"]
    sweep: Sweep
    """With absolute paths."""
    text: str
    words: str
    """What names the sweep on the client's command line."""
    profile: str | None
    commit: str
    """Of the folder that the sweep file was read from."""
    code: Code
    """The client's."""
    tracking_uri: str | None
    """The client's MLFLOW_TRACKING_URI, for a cluster that has none itself."""
    options: Options = Options()

    @classmethod
    def of(cls, command: Literal["submit", "rerun", "evaluate"], file: SweepFile, options: Options) -> Self:
        """The request of a client."""
        return cls(
            command=command,
            sweep=file.sweep,
            text=file.text,
            words=str(file.path),
            profile=file.profile,
            commit=file.commit,
            code=own_code(),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
            options=options,
        )

    def write(self, folder: Path) -> None:
        """Puts it into the folder that travels."""
        (folder / FILE).write_text(self.model_dump_json())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The request in such a folder.

        Raises:
            ValueError: it is not one of this version's.
        """
        try:
            return cls.model_validate_json((folder / FILE).read_text())
        except UserError as error:  # of limits: no command line would have let them through
            raise ValueError(str(error)) from error

    def file(self) -> SweepFile:
        """The sweep as the client read it."""
        return SweepFile(self.sweep, self.text, Path(self.words), self.profile, self.commit)


def event(kind: str, **details: Any) -> str:
    """One line for the client."""
    return EVENT + json.dumps({"event": kind, **details})


def parse_event(line: str) -> dict[str, Any] | None:
    """What a line says to the client; None for one that is for its user."""
    if not line.startswith(EVENT):
        return None
    try:
        found = json.loads(line.removeprefix(EVENT))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "event" in found else None


def mismatch(client: Code, there: Code, where: str) -> str | None:
    """Why code elsewhere cannot serve a client's; None where it is the same."""
    if client.digest == there.digest:
        return None
    return (
        f"{where} has flatsweep {there}, this machine {client}: trials of different code must not get mixed; "
        "install the same on both, or send this machine's with --wheel"
    )
