"""A tracking server for several people and machines: MLflow's own, with users and passwords, set up with care."""

import configparser
import importlib.util
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from orchestrator.addresses import refusal, secret, shown, with_driver, without_secret
from orchestrator.errors import UserError
from orchestrator.serving.database import schema_problem
from orchestrator.serving.hosts import allowed_hosts, check_free, is_loopback
from orchestrator.serving.passwords import ADMIN_PASSWORD, admin_password, read_password
from orchestrator.serving.process import run_server
from orchestrator.serving.users import default_password_users, is_other_password

DATABASE = "MLFLOW_BACKEND_STORE_URI"
SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  (the variable's name)
CHECKED_SECONDS = 60
"""How long a worker remembers that a password was right: checking takes about 50 ms, and a sweep asks often. As long a
password that was changed stays good with the server's other workers."""


@dataclass(frozen=True)
class Settings:
    """What a server is asked to be."""

    folder: Path
    """Of what it keeps: its key, and, unless they are elsewhere, database and artifacts."""
    database: str | None = None
    """SQLAlchemy's address, without password; MLFLOW_BACKEND_STORE_URI, else SQLite in `folder`, if None."""
    database_password: Path | None = None
    """File of the password that belongs into the address."""
    artifacts: str | None = None
    """Folder or s3://; a folder in `folder` if None."""
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 2
    allowed_hosts: Sequence[str] = ()
    """Names by which clients call the server, beside those of the loopback address and `host`."""
    admin: str = "admin"
    password: Path | None = None
    """File of the admin's password; MLFLOW_AUTH_ADMIN_PASSWORD if None."""
    permission: str = "READ"
    """What every user may do with experiments of others: READ, EDIT, MANAGE or NO_PERMISSIONS."""


def serve(settings: Settings) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Raises:
        UserError: it would not be safe, or cannot start.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise UserError("a server with users needs the extra `server`: pip install 'flatsweep[server]'")
    password = admin_password(settings.password)
    hosts = allowed_hosts(settings.host, settings.allowed_hosts)
    artifacts = artifacts_place(settings)
    uri = database_uri(settings)
    check_free(settings.host, settings.port)
    folder = settings.folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".server.lock", timeout=0):
            _check_database(uri, settings.admin, password)
            _serve_locked(settings, folder, uri, password, hosts, artifacts)
    except filelock.Timeout as error:
        raise UserError(f"another server runs in {folder}; --folder takes another") from error
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error}") from error


def _serve_locked(
    settings: Settings, folder: Path, uri: str, password: str, hosts: Sequence[str], artifacts: str
) -> None:
    plain, variables = _split(uri)
    users = folder / "users.ini"
    try:
        write_private(users, users_ini(plain, settings.admin, settings.permission))
        environment = variables | {
            DATABASE: plain,
            SECRET_KEY: os.environ.get(SECRET_KEY) or kept_key(folder / "secret_key"),
            ADMIN_PASSWORD: password,
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
        }
        words = ["--app-name", "basic-auth", "--workers", str(settings.workers), "--serve-artifacts"]
        words += ["--artifacts-destination", artifacts, "--allowed-hosts", ",".join(hosts)]
        if not is_loopback(settings.host):
            say(f"listens beyond this machine, on {settings.host}, without encryption: put TLS before it")
        called = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"http://{called}:{settings.port}  (admin '{settings.admin}'; Ctrl-C ends it)", flush=True)
        run_server(words, settings.host, settings.port, environment)
    finally:
        users.unlink(missing_ok=True)


def database_uri(settings: Settings) -> str:
    """The database's address with its password."""
    given = settings.database
    if given and (secret(given) is not None):
        raise UserError(
            f"--database {shown(given)}: a password on a command line is seen by everyone on the machine: set "
            f"{DATABASE} to the whole address, or give --database-password-file, PGPASSWORD or ~/.pgpass"
        )
    uri = given or os.environ.get(DATABASE) or f"sqlite:///{settings.folder.expanduser().absolute()}/mlflow.db"
    if "://" not in uri:
        raise UserError(f"--database {uri}: give an address such as postgresql://USER@HOST/NAME or sqlite:///FILE")
    uri = with_driver(uri)
    if settings.database_password is None:
        return uri
    if uri.startswith("sqlite") or secret(uri) is not None:
        raise UserError(f"--database-password-file: the database {shown(uri)} has no use for one more password")
    from sqlalchemy.engine import make_url

    url = make_url(uri).set(password=read_password(settings.database_password))
    return url.render_as_string(hide_password=False)


def _split(uri: str) -> tuple[str, dict[str, str]]:
    """The address for MLflow, and variables beside it.

    Postgres' own library takes the password from the environment, so that no message of MLflow or SQLAlchemy can hold
    it; with other databases it stays in the address, which goes by the environment and a file that others cannot read.
    """
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_backend_name() != "postgresql" or not url.password:
        return uri, {}
    return without_secret(uri), {"PGPASSWORD": url.password}


def _check_database(uri: str, admin: str, password: str) -> None:
    if problem := schema_problem(uri):
        raise UserError(problem)
    others = [name for name in default_password_users(uri) if name != admin]
    if others:
        raise UserError(
            f"{', '.join(others)} of {shown(uri)} still have MLflow's former default password: start once with "
            f"--admin {others[0]} and a new password, which takes its place, or delete that user"
        )
    if is_other_password(uri, admin, password):
        say(f"'{admin}' has another password than the one given, and keeps it; it is changed over MLflow's API")


def artifacts_place(settings: Settings) -> str:
    """Where the server keeps artifacts: a folder's absolute path, or a URL as it is."""
    given = settings.artifacts
    if given and (reason := refusal(given)):
        raise UserError(f"--artifacts: {reason}")
    if given and "://" in given:
        return given
    return str((Path(given) if given else settings.folder / "artifacts").expanduser().absolute())


def users_ini(database: str, admin: str, permission: str) -> str:
    """MLflow's settings of who may do what."""
    from io import StringIO

    ini = configparser.ConfigParser()
    ini["mlflow"] = {
        "default_permission": permission,
        "database_uri": database.replace("%", "%%"),
        "admin_username": admin.replace("%", "%%"),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": str(CHECKED_SECONDS),
    }
    text = StringIO()
    ini.write(text)
    return text.getvalue()


def kept_key(file: Path) -> str:
    """The key of MLflow's forms: the same in all workers and after a restart; made if missing."""
    if not file.exists():
        write_private(file, secrets.token_hex(32))
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file} can be read by others: chmod 600, or delete it for a new key")
    return file.read_text()


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner can read, at every moment."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)


def say(text: str) -> None:
    """A note, beside the output."""
    print(f"note: {text}", file=sys.stderr)
