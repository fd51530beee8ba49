"""Passwords from files and the environment, never from a command line; none that everybody knows."""

import os
import re
from pathlib import Path

from orchestrator.errors import UserError

ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  (the variable's name)
SHORTEST = 12
"""MLflow's own limit, in characters."""
DIFFERENT = 5
"""Different characters that a password has at least."""
GUESSED_FIRST = {"password", "passwordpassword", "passwd", "admin", "administrator", "adminadmin", "changeme"}
GUESSED_FIRST |= {"changemechangeme", "secret", "letmein", "welcome", "mlflow", "flatsweep", "qwerty", "default"}


def admin_password(file: Path | None) -> str:
    """The admin's password, from a file or else from the environment.

    Raises:
        UserError: there is none, or it is one that is tried first.
    """
    password = read_password(file) if file else os.environ.get(ADMIN_PASSWORD, "")
    if not password:
        raise UserError(f"the server needs a password for its admin, and has no default: --password-file FILE, or set "
                        f"{ADMIN_PASSWORD}")  # fmt: skip
    if reason := weakness(password):
        where = str(file) if file else ADMIN_PASSWORD
        raise UserError(f"the admin's password ({where}) {reason}; `openssl rand -base64 24` makes a good one")
    return password


def weakness(password: str) -> str | None:
    """What makes it one that is tried first; None where nothing does."""
    if len(password) < SHORTEST:
        return f"is shorter than {SHORTEST} characters"
    word = re.sub(r"[\W\d_]+$", "", password.lower()).translate(str.maketrans("013457@$", "oleastas"))
    if re.sub("[^a-z]", "", word) in GUESSED_FIRST:
        return "is one of the first that are tried, such as MLflow's former default"
    if len(set(password)) < DIFFERENT:
        return f"has fewer than {DIFFERENT} different characters"
    return None


def read_password(file: Path) -> str:
    """The one line of a file.

    Raises:
        UserError: it cannot be read, or holds more or less than one line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the password in {file}: {getattr(error, 'strerror', None) or error}") from error
    if len(lines) != 1 or not lines[0]:
        raise UserError(f"{file} holds {len(lines)} lines; a password's file holds one line, the password")
    return lines[0]
