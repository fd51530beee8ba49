"""What a check is asked and what it answers."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from orchestrator.spec.sweep import Sweep


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line: what is so, and how to mend it."""

    check: str
    level: Level
    what: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """As plain data."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Finding":
        """What `as_dict` gave."""
        return cls(data["check"], Level(data["level"]), data["what"], data["mend"])


@dataclass(frozen=True)
class Question:
    """What the checks are about."""

    sweep: Sweep | None = None
    address: str | None = None
    """Of a Ray cluster: as given, or RAY_ADDRESS; None for a local Ray."""
    tracking_uri: str | None = None
    """None where neither the sweep nor the surroundings say one."""
    storage: str | None = None
    scratch: str = ""
    """A folder on this machine that is removed afterwards."""

    def packed(self) -> str:
        """As JSON."""
        sweep = self.sweep.model_dump_json() if self.sweep else None
        return json.dumps({**{key: getattr(self, key) for key in self.__dataclass_fields__}, "sweep": sweep})

    @classmethod
    def unpacked(cls, text: str) -> "Question":
        """What `packed` gave."""
        data = json.loads(text)
        sweep = Sweep.model_validate_json(data["sweep"]) if data["sweep"] else None
        return cls(**{**data, "sweep": sweep})


def first_line(error: BaseException) -> str:
    """An error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
