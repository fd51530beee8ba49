"""JSON files with a checksum: what was damaged on the way is told from what was written. Imports no torch."""

import json
import sys
import zlib
from collections.abc import Mapping
from typing import Any

CHECK = "crc"
"""The key of the checksum, CRC-32 in 8 hex digits, over the rest in a fixed form."""
MAX_DIGITS = sys.float_info.max_10_exp


def sealed(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON with a checksum."""
    return json.dumps({**content, CHECK: _check(content)}, indent=indent).encode()


def unsealed(content: bytes, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """What `sealed` was given; also of a file without a checksum, as flatsweep wrote them before.

    Args:
        content: of the file.
        types: for each key that must be there the type of its value.

    Raises:
        ValueError: damaged, or something else.
    """
    try:
        found = json.loads(content, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    check = found.pop(CHECK, None)
    if check is not None and check != _check(found):
        raise ValueError("its checksum differs")
    for key, wanted in types.items():
        if key not in found or not isinstance(found[key], wanted):
            raise ValueError(f"'{key}' is missing or of another kind")
    return found


def _whole(digits: str) -> int:
    """A number that can also stand where a fraction is meant."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _check(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
