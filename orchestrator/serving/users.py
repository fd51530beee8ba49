"""What a server's database says of its users, read as MLflow writes it; nothing is changed."""

from collections.abc import Iterator
from pathlib import Path

FORMER_DEFAULT = "password1234"
"""What MLflow gave every admin before 3.17 (advisory GHSA-gq3w-7jj3-x7gr)."""


def default_password_users(uri: str) -> list[str]:
    """Admins whose password is the one that MLflow used to ship."""
    return [name for name, stored in _admins(uri) if _fits(stored, FORMER_DEFAULT)]


def is_other_password(uri: str, user: str, password: str) -> bool:
    """Whether a user has another password, and not the former default, which MLflow replaces."""
    stored = dict(_admins(uri)).get(user)
    return stored is not None and not _fits(stored, password) and not _fits(stored, FORMER_DEFAULT)


def _fits(stored: str, password: str) -> bool:
    from werkzeug.security import check_password_hash

    return check_password_hash(stored, password)


def _admins(uri: str) -> Iterator[tuple[str, str]]:
    """Names and password hashes; none where the server has not made its tables yet."""
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if inspect(connection).has_table("users"):
                found = connection.execute(text("SELECT username, password_hash FROM users WHERE is_admin"))
                yield from ((str(name), str(stored)) for name, stored in found.all())
    finally:
        engine.dispose()
