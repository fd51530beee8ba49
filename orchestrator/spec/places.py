"""Where a sweep's files lie: a folder of this machine, or the address of one elsewhere. Knows text only."""

import re
from pathlib import Path
from urllib.parse import urlsplit

MAX_CHARACTERS = 500
"""Names inside come on top; file systems end at 4096 characters, S3 at 1024."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_address(storage: str) -> bool:
    """Whether it is an address such as s3://bucket/prefix, and no path."""
    return "://" in storage


def storage_problem(storage: str) -> str | None:
    """What is wrong with it; None where nothing is. Never repeats what may be a password."""
    if not storage or not storage.isprintable():
        return "storage is a folder, or an address such as s3://bucket/prefix"
    if len(storage) > MAX_CHARACTERS:
        return f"storage is too long: {len(storage)} characters, {MAX_CHARACTERS} at most"
    if not is_address(storage):
        return None
    if not _SCHEME.match(storage) or "::" in storage:
        return "an address of a storage begins with one scheme, as s3://bucket/prefix does"
    try:
        parts = urlsplit(storage)
    except ValueError as error:
        return f"this is no address: {error}"
    if parts.scheme in {"file", "local"}:
        return "a folder of this machine is given as a plain path, without file://"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return (
            "an address of a storage is scheme://place/folder, without user, password, '?' and '#': credentials come "
            "from the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not parts.netloc:
        return "an address of a storage names a bucket or a server: s3://bucket/prefix"
    path = parts.path.removeprefix("/").rstrip("/")
    if path and {"", ".", ".."} & set(path.split("/")):
        return "an address of a storage has no empty parts, '.' or '..'"
    return None


def located_storage(storage: str, base: Path) -> str:
    """A path made absolute, taken relative to the folder `base`; an address as it is, without a slash at its end."""
    if is_address(storage):
        return storage.rstrip("/")
    return str((base / Path(storage).expanduser()).absolute())
