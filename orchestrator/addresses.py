"""Addresses of tracking servers and databases: the password in one, and what may be shown or recorded of it."""

import importlib.util
import os
import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

_USER = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:@/?#]*)(?::(?P<password>.*))?@")
"""Greedy up to the last '@': in databases' addresses a password may hold any character, '/' and '@' among them."""
_KEY = re.compile(r"(?P<key>[?&][^=&#]*(?:password|passwd|token|secret)[^=&#]*=)(?P<value>[^&#]+)", re.IGNORECASE)


def secret(uri: str) -> str | None:
    """The password in an address, as it is written there; None where it has none."""
    if (match := _user(uri)) and match["password"]:
        return match["password"]
    found = _KEY.search(uri)
    return found["value"] if found else None


def without_secret(uri: str) -> str:
    """The address without its password; the user stays."""
    return _KEY.sub(r"\g<key>", _replaced(uri, ""))


def shown(uri: str) -> str:
    """The address as it may be printed, logged and recorded."""
    return _KEY.sub(rf"\g<key>{HIDDEN}", _replaced(uri, f":{HIDDEN}"))


def public(uri: str) -> str:
    """The address without user and password, as in a link."""
    match = _user(uri)
    return without_secret(match["scheme"] + uri[match.end() :] if match else uri)


def hidden(text: str, uri: str) -> str:
    """A text, such as an error's, with the password of an address taken out."""
    found = secret(uri)
    for form in {found, unquote(found)} if found else ():
        text = text.replace(form, HIDDEN)
    return text


def completed(uri: str) -> str:
    """What `without_secret` gave, with the password again where this process' MLFLOW_TRACKING_URI has it."""
    known = with_driver(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return known if known and without_secret(known) == uri else uri


def with_driver(uri: str) -> str:
    """A database's address that names its driver where SQLAlchemy would choose one that is not installed.

    Without a name SQLAlchemy 2.1 takes psycopg, and 2.0 psycopg2, which the extra `postgres` installs.
    """
    scheme, colon, rest = uri.partition("://")
    if scheme in {"postgresql", "postgres"} and importlib.util.find_spec("psycopg") is None:
        return f"postgresql+psycopg2{colon}{rest}"
    return uri


def is_server(uri: str) -> bool:
    """Whether it is that of a tracking server."""
    return uri.startswith(("http://", "https://"))


def is_database(uri: str) -> bool:
    """Whether it is that of a database."""
    scheme, colon, _ = uri.partition("://")
    return bool(colon) and not is_server(uri) and scheme not in {"file", "databricks", "databricks-uc", "uc"}


def refusal(uri: str) -> str | None:
    """Why an address may not stand in a sweep file or on a command line; None where it may.

    Sweep files are recorded with the runs, and command lines are seen by everyone on the machine: no passwords there.
    """
    if secret(uri) is None:
        return None
    if is_server(uri):
        way = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write them to ~/.mlflow/credentials"
    else:
        way = "set MLFLOW_TRACKING_URI to the whole address, or leave the password to PGPASSWORD or ~/.pgpass"
    return f"{shown(uri)} has a password in it, which others would get to see: leave it out and {way}"


def _user(uri: str) -> re.Match[str] | None:
    match = _USER.match(uri)
    if match and is_server(uri) and "@" not in urlsplit(uri).netloc:
        return None  # an '@' further behind is part of the path
    return match


def _replaced(uri: str, password: str) -> str:
    match = _user(uri)
    if not match or match["password"] is None:
        return uri
    return f"{match['scheme']}{match['user']}{password}@{uri[match.end() :]}"
