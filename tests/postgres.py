"""A Postgres of one's own: made in a temporary folder, on loopback, gone at the end. For tests and benchmarks.

    with private_postgres() as server:
        store = Store(server.database("mlflow"), ...)

A machine without Postgres' programs skips: `@pytest.mark.skipif(programs() is None, reason=NO_PROGRAMS)`.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_PROGRAMS = "needs Postgres' programs initdb and postgres, such as Debian's package postgresql"
LOOPBACK = "127.0.0.1"
SERVANT = "nobody"
"""Who runs the server where root asks for it: Postgres refuses to run as root."""
OWNER = "flatsweep"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    host: str
    port: int
    password: str = field(repr=False)
    """Of `OWNER`, who may do everything; a new one in each server."""
    process_id: int
    log: Path

    def uri(self, database: str = "postgres") -> str:
        """Where a database is, for MLflow and SQLAlchemy; needs psycopg (the extra `postgres`)."""
        return f"postgresql://{OWNER}:{self.password}@{self.host}:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Makes an empty database, unless there is one of that name, and says where it is."""
        with self._connection() as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{name}"')
        return self.uri(name)

    def _connection(self) -> Any:
        import psycopg

        # a database cannot be made within a transaction
        return psycopg.connect(self.uri(), connect_timeout=5, autocommit=True)


def programs() -> Path | None:
    """The folder with initdb and postgres: on PATH, or where Debian keeps it; None where there is none."""
    places = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists()), None)


@contextlib.contextmanager
def private_postgres(
    host: str = LOOPBACK, clients: Sequence[str] = ("127.0.0.1/32",), kept: Path | None = None
) -> Iterator[Postgres]:
    """A server for the time of the block, on a free port; its folder is a new one in the system's temporary folder.

    Args:
        host: the address it listens on.
        clients: networks that it answers; all of them with a password.
        kept: a folder of its own that outlives the block, and with it the databases; `SERVANT` must reach it.

    Raises:
        RuntimeError: there are no programs, or it does not start; with the end of its log.
    """
    place = programs()
    if place is None:
        raise RuntimeError(NO_PROGRAMS)
    # not pytest's, which only its owner may enter
    folder = kept or Path(tempfile.mkdtemp(prefix="fs-postgres-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        as_whom = _as_servant(folder)
        data, log = folder / "data", folder / "log"
        password = _made(place, folder, as_whom)
        rules = [f"host all all {network} scram-sha-256" for network in clients]
        (data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        # no sockets in folders, whose paths may be too long; no fsync, as nothing here is to outlive the machine
        settings = {"listen_addresses": host, "port": port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [place / "postgres", "-D", data, *options], stdout=output, stderr=output, **as_whom
            )
        try:
            server = Postgres(host, port, password, process.pid, log)
            _wait(server, process)
            yield server
        finally:
            _stop(process)
    finally:
        if kept is None:
            shutil.rmtree(folder)


def _made(place: Path, folder: Path, as_whom: dict[str, Any]) -> str:
    """The owner's password of the cluster of databases in the folder, which is made if it is not there."""
    secret = folder / "password"
    if secret.exists():
        return secret.read_text()
    password = secrets.token_hex(16)
    secret.write_text(password)
    secret.chmod(0o644)  # its folder is closed to others
    data = folder / "data"
    making = [place / "initdb", "-D", data, "-U", OWNER, "--pwfile", secret, "--auth", "scram-sha-256", "--no-sync"]
    made = subprocess.run([*making, "--encoding", "UTF8", "--locale", "C"], capture_output=True, text=True, **as_whom)
    if made.returncode:
        raise RuntimeError(f"initdb failed: {made.stderr[-2000:]}")
    return password


def _as_servant(folder: Path) -> dict[str, Any]:
    """For `subprocess`: run in the folder, and where we are root as the servant, to whom it then belongs."""
    environment = {**os.environ, "HOME": str(folder), "PGDATA": str(folder / "data")}
    options: dict[str, Any] = {"cwd": folder, "env": environment}
    if os.geteuid() == 0:
        servant = pwd.getpwnam(SERVANT)
        os.chown(folder, servant.pw_uid, servant.pw_gid)
        options |= {"user": servant.pw_uid, "group": servant.pw_gid, "extra_groups": []}
    return options


def _wait(server: Postgres, process: "subprocess.Popen[bytes]") -> None:
    """Until it answers."""
    import psycopg

    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            server._connection().close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > ends:
                said = server.log.read_text()[-2000:]
                raise RuntimeError(f"Postgres does not answer on port {server.port}: {said}") from error
        time.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the server and what it started, though clients are connected."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # Postgres' fast shutdown
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)  # at once; SIGKILL would leave its children
            process.wait(30)
