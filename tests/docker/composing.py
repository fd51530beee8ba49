"""docker/compose.yaml as Docker would read it, and commands of programs that may not be installed."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE, GPU = DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml"
DOCKERFILE = DOCKER / "Dockerfile"
VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")
UNITS = {"mb": 2**20, "gb": 2**30}


def read(file: Path, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The file with its variables filled in: given ones, else the defaults that stand in the file."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = (variables or {}).get(match[1]) or match[2]
        assert found is not None, f"{match[0]} has no default"
        return found

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(child) for key, child in node.items()}
        if isinstance(node, list):
            return [fill(child) for child in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    content: dict[str, Any] = fill(yaml.safe_load(file.read_text()))
    return content


def services(file: Path = COMPOSE) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(file)["services"]
    return found


@dataclass(frozen=True)
class Port:
    """One published port."""

    address: str
    outside: int
    inside: int


def ports(service: dict[str, Any]) -> list[Port]:
    """Those of a service, all written as address:outside:inside."""
    parts = [entry.rsplit(":", 2) for entry in service.get("ports", [])]
    return [Port(address, int(outside), int(inside)) for address, outside, inside in parts]


def mounted_secrets(service: dict[str, Any]) -> dict[str, str]:
    """Secret -> where it lies inside."""
    long = [{"source": entry} if isinstance(entry, str) else entry for entry in service.get("secrets", [])]
    return {entry["source"]: entry.get("target", f"/run/secrets/{entry['source']}") for entry in long}


def size(text: str) -> int:
    """Bytes in 256mb or 1gb."""
    match = re.fullmatch(r"(\d+)([mg]b)", text)
    assert match, text
    return int(match[1]) * UNITS[match[2]]


def program(name: str) -> str | None:
    """Where a program is: beside this Python, where packages bring some, or on PATH; None where it is not."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)
