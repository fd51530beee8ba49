"""An HTTP server before another one, which passes questions on, or fails them in a way that a test chooses."""

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_SECONDS = 2.0
HANG_SECONDS = 30.0
WAYS = ("pass", "500", "reset", "hang", "slow")


class FaultyProxy(ThreadingHTTPServer):
    """Before a server of this machine.

    `way` is what it does with the next questions: `pass` them on; answer `500`; close the connection without a word
    (`reset`); `hang`, as long as that is the way; pass on after `SLOW_SECONDS` (`slow`). `done` counts what it did.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.way = port, "pass"
        self.done: Counter[str] = Counter()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        way = self.server.way
        self.server.done[way] += 1
        if way == "hang":
            until = time.monotonic() + HANG_SECONDS
            while self.server.way == "hang" and time.monotonic() < until:
                time.sleep(0.1)
        if way in {"reset", "hang"}:
            self.close_connection = True
            return
        if way == "500":
            self._answer(500, b"{}", "application/json")
            return
        if way == "slow":
            time.sleep(SLOW_SECONDS)
        self._pass_on(body)

    def _pass_on(self, body: bytes) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)) as further:
            headers = {key: text for key, text in self.headers.items() if key.lower() not in {"host", "connection"}}
            try:
                further.request(self.command, self.path, body, headers)
                answer = further.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True
                return
            self._answer(answer.status, content, answer.headers.get("Content-Type", "application/json"))

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        with contextlib.suppress(OSError):  # who asked may have given up
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_words: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Before the server at a port of this machine."""
    proxy = FaultyProxy(port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.way = "pass"
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
