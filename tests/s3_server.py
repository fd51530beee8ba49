"""An S3 server on the loopback address, for tests: moto's, in a process of its own that is stopped by its id.

Use it as a fixture, in any folder of tests:

    from s3_server import S3Server

    @pytest.fixture(scope="module")
    def s3() -> Iterator[S3Server]:
        with S3Server() as server:
            yield server

and `server.environment` for the processes that are to reach it; `server.bucket()` makes a new, empty bucket.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

SERVER = """
import sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
app, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()
def serve(environ, start_response):
    # moto looks whether an object is there and then writes it; a real server does both at once
    if sys.argv[3] == "unconditional":
        environ.pop("HTTP_IF_NONE_MATCH", None)
    with one_at_a_time:
        return app(environ, start_response)
run_simple(sys.argv[1], int(sys.argv[2]), serve, threaded=True)
"""
START_SECONDS = 60.0


class S3Server:
    """A running server; `with` starts and stops it. Everything in it is gone afterwards.

    Args:
        host: the address it listens on.
        conditional: whether it honours If-None-Match, as older ones do not.
    """

    def __init__(self, host: str = "127.0.0.1", conditional: bool = True) -> None:
        self._mode = "conditional" if conditional else "unconditional"
        with socket.socket() as free:
            free.bind((host, 0))
            self.port: int = free.getsockname()[1]
        self.host, self.url = host, f"http://{host}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs: address, credentials that mean nothing, region."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> "S3Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it answers; after `stop` at the same address, empty."""
        words = [sys.executable, "-c", SERVER, self.host, str(self.port), self._mode]
        environment = {**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 26)}
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server's process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def bucket(self) -> str:
        """Makes a bucket of a new name; returns its address, s3://NAME."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        # the plainest client: the tests' own fsspec file systems hold no state of this
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            return f"s3://{name}"
