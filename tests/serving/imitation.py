"""A small HTTP server that answers as MLflow's does, so that what is said of each answer can be tested in no time.

`SAID` is what MLflow 3.17 really sends; test_server.py compares it with a real server's answers.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = "/api/2.0/mlflow"


@dataclass(frozen=True)
class Answer:
    """Status, kind and body of an answer."""

    status: int
    kind: str
    body: str

    @classmethod
    def json(cls, status: int, **content: Any) -> "Answer":
        return cls(status, "application/json", json.dumps(content))


SAID = {
    "unauthenticated": Answer(
        401,
        "text/html; charset=utf-8",
        "You are not authenticated. Please see https://www.mlflow.org/docs/latest/auth/index.html"
        "#authenticating-to-mlflow on how to authenticate.",
    ),
    "forbidden": Answer(403, "text/html; charset=utf-8", "Permission denied"),
    "bad host": Answer(403, "text/plain", "Invalid Host header - possible DNS rebinding attack detected"),
    "no experiment": Answer.json(
        404,
        error_code="RESOURCE_DOES_NOT_EXIST",
        message="Could not find experiment with name nope",
        sqlstate="KAM00",
        error_class="RESOURCE_NOT_FOUND",
    ),
}
BAD_VALUE = Answer.json(400, error_code="INVALID_PARAMETER_VALUE", message="Invalid value")
PAGE = Answer(404, "text/html; charset=utf-8", "<!doctype html><title>404 Not Found</title>")
FOUND = Answer.json(200, experiment={"experiment_id": "7", "name": "s", "lifecycle_stage": "active"})

SEARCH, BY_NAME = "GET /experiments/search", "GET /experiments/get-by-name"
MAKE_RUN, MAKE_EXPERIMENT = "POST /runs/create", "POST /experiments/create"
GOOD = {
    SEARCH: Answer.json(200, experiments=[]),
    BY_NAME: FOUND,
    MAKE_RUN: BAD_VALUE,
    MAKE_EXPERIMENT: BAD_VALUE,
}


@dataclass
class Imitation:
    """Answers by method and path below the API, and what it was asked."""

    answers: dict[str, Answer]
    port: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method and path, Authorization, body."""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def imitation(changes: Mapping[str, Answer] | None = None) -> Iterator[Imitation]:
    """A server that answers everything well but what is changed, by method and path."""
    held = Imitation(GOOD | dict(changes or {}))

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            what = f"{self.command} {self.path.split('?')[0].removeprefix(API)}"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            held.asked.append((what, self.headers.get("Authorization", ""), body))
            answer = held.answers.get(what, PAGE)
            content = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_args: Any) -> None:
            pass

    with served(lambda: ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        held.port = server.server_port
        yield held


@contextlib.contextmanager
def served(make: Callable[[], ThreadingHTTPServer]) -> Iterator[ThreadingHTTPServer]:
    server = make()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of a server that takes calls and never answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield f"http://127.0.0.1:{one.getsockname()[1]}"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody else can begin to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{one.getsockname()[1]}"
