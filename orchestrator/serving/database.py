"""The database behind a tracking store: whether it answers, and whether this MLflow can work on it."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.addresses import hidden, shown, without_secret

if TYPE_CHECKING:
    from sqlalchemy import Engine

CONNECT_SECONDS = 5
"""How long a database on another machine may take to answer."""
DRIVERS = {"postgresql": "install the extra `postgres`: pip install 'flatsweep[postgres]'"}
"""By dialect, what to do where the driver is missing."""


def schema_problem(uri: str) -> str | None:
    """Why MLflow cannot work on a database, in one sentence; None for a good one and for one that is still empty.

    Reads only. A file of SQLite that does not exist is not made.

    Args:
        uri: SQLAlchemy's, with its password.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        url = make_url(uri)
        dialect = url.get_backend_name()
        if dialect == "sqlite" and (not url.database or not Path(url.database).exists()):
            return None
        timeout = {} if dialect == "sqlite" else {"connect_timeout": CONNECT_SECONDS}
        engine = create_engine(url, connect_args=timeout)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        return f"{shown(uri)} is no address of a database or a tracking server: {_line(error, uri)}"
    except ImportError as error:
        return f"{shown(uri)} needs a driver: {error}; {DRIVERS.get(dialect, 'install it')}"
    try:
        return _revision_problem(engine, uri)
    except SQLAlchemyError as error:
        return f"the database {shown(uri)} cannot be used: {_line(getattr(error, 'orig', None) or error, uri)}"
    finally:
        engine.dispose()


def _revision_problem(engine: "Engine", uri: str) -> str | None:
    from sqlalchemy import inspect, text

    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None  # MLflow makes its tables
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    newest, known = _revisions()
    if found == newest:
        return None
    if found in known:
        way = " (with its password in PGPASSWORD)" if uri.startswith("postgresql") else ""
        return (
            f"the database {shown(uri)} is of an older MLflow (schema {found}, here {newest}): back it up, stop all "
            f"that use it, then `mlflow db upgrade {without_secret(uri)}`{way}"
        )
    return f"the database {shown(uri)} is of another MLflow (schema {found}, here {newest}): use a newer MLflow here"


def _revisions() -> tuple[str | None, set[str]]:
    """The schema that this MLflow works on, and all that it can migrate from."""
    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.submodule_search_locations  # noqa: S101
    scripts = ScriptDirectory(str(Path(spec.submodule_search_locations[0]) / "store" / "db_migrations"))
    return scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}


def _line(error: BaseException, uri: str) -> str:
    return (hidden(str(error), uri).splitlines() or [type(error).__name__])[0][:300]
