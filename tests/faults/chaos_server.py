"""MLflow's own server application in a process of its own, which fails as servers do, and its SQLite file, locked."""

import json
import logging
import os
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_processes import fork

CLIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.1",
}
"""MLflow's client, as patient as such short sweeps need: it is three times as long in earnest."""
HANG_SECONDS = 4.0
SLOW_SECONDS = 0.3
ERRORS, LOST, HANGS, SLOW, KILLED = (
    "MLflow answers 500",
    "MLflow's answer lost",
    "MLflow hangs",
    "MLflow slow",
    "MLflow killed, down for a while",
)
LOCKED = "MLflow's SQLite file locked by another process"
REQUESTS, BEGUN = "requests", "begun"
"""In the server's folder: a byte for each request, a line for each fault that has begun."""


@dataclass(frozen=True)
class ServerFault:
    """One fault of the server."""

    what: str
    after: int
    """Requests that are answered before it."""
    seconds: float = 0.0
    """How long it lasts; `LOST` is one answer."""


def import_server() -> None:
    """Imported once, before processes are forked: it takes seconds."""
    import mlflow.server  # noqa: F401
    import werkzeug.serving  # noqa: F401


class Server:
    """A server on an SQLite file, and what will go wrong with it.

    Args:
        folder: with `server.db`, a store; artifacts and notes go there too.
        faults: each happens once.
        log: where they are noted.
    """

    def __init__(self, folder: Path, faults: list[ServerFault], log: Path) -> None:
        self.folder, self._faults, self._log = folder, faults, log
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = int(one.getsockname()[1])
        (folder / REQUESTS).touch()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it, under a process that starts it again when it dies; both end when this process has."""
        ours, theirs = os.pipe()
        os.set_inheritable(theirs, True)

        def between() -> int:
            # no child of this process, which waits for all that it has
            fork(lambda: os.close(theirs) or self._supervise(ours))
            return 0

        os.waitpid(fork(between), 0)
        os.close(ours)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.02)
        raise TimeoutError("MLflow's server does not start")

    def _supervise(self, ours: int) -> int:
        poll = select.poll()
        poll.register(ours, 0)  # a hang-up is always told: whoever uses the server is gone
        while True:
            server = fork(self._serve)
            while os.waitpid(server, os.WNOHANG) == (0, 0):
                if poll.poll(50):
                    os.kill(server, signal.SIGKILL)
                    return 0
            down = [fault for fault in self._begun() if fault["of"] == KILLED]
            time.sleep(down[-1]["seconds"] if down else 0.0)

    def _begun(self) -> list[dict[str, Any]]:
        file = self.folder / BEGUN
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _serve(self) -> int:
        from mlflow.server.constants import (
            ARTIFACT_ROOT_ENV_VAR,
            ARTIFACTS_DESTINATION_ENV_VAR,
            BACKEND_STORE_URI_ENV_VAR,
            SERVE_ARTIFACTS_ENV_VAR,
        )
        from werkzeug.serving import make_server

        os.environ |= {
            BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{self.folder}/server.db",
            ARTIFACTS_DESTINATION_ENV_VAR: f"{self.folder}/served",
            ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            SERVE_ARTIFACTS_ENV_VAR: "true",
        }
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        begun = {fault["number"] for fault in self._begun()}
        left = {number: fault for number, fault in enumerate(self._faults) if number not in begun}
        make_server("127.0.0.1", self._port, _Faulty(self.folder, left, self._log), threaded=True).serve_forever()
        return 1


class _Faulty:
    """The application, with its faults around it."""

    def __init__(self, folder: Path, left: dict[int, ServerFault], log: Path) -> None:
        from mlflow.server import app

        self._app, self._folder, self._left, self._log = app, folder, left, log
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            begins = self._count()
        now = time.monotonic()
        lasting = {what for what, until in self._until.items() if now < until}
        if KILLED in begins:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGS in lasting:
            time.sleep(HANG_SECONDS)
        if SLOW in lasting:
            time.sleep(SLOW_SECONDS)
        if ERRORS in lasting:
            start_response("500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")])
            return [b"as a fault"]
        answer = self._app.wsgi_app(environ, start_response)
        if LOST in begins:
            raise ConnectionError("as a fault")
        return answer

    def _count(self) -> list[str]:
        """Counts a request; what begins with it."""
        with (self._folder / REQUESTS).open("ab") as file:
            file.write(b".")
        number = (self._folder / REQUESTS).stat().st_size
        due = {key: fault for key, fault in self._left.items() if number > fault.after}
        for key, fault in due.items():
            del self._left[key]
            self._until[fault.what] = time.monotonic() + fault.seconds
            line = log_line(fault.what, fault.seconds) | {"number": key}
            for place in (self._folder / BEGUN, self._log):
                with place.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        return [fault.what for fault in due.values()]


def log_line(what: str, seconds: float = 0.0, pid: int | None = None, about: str = "*") -> dict[str, Any]:
    """How something that did not happen at a fault point is noted among those that did."""
    shared = {"point": "outside", "action": "", "of": what, "hit": 1, "about": about}
    return shared | {"seconds": seconds, "pid": pid or os.getpid(), "time": time.monotonic()}


def lock_database(file: Path, seconds: float, log: Path) -> int:
    """Locks an SQLite file for so long, as another program does that writes to it."""
    with sqlite3.connect(file, timeout=20) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with log.open("a") as lines:
            lines.write(json.dumps(log_line(LOCKED, seconds)) + "\n")
        time.sleep(seconds)
    connection.close()
    return 0
