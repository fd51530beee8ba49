"""Runs `mlflow server` until it ends or the user ends it. What must not be seen goes by the environment."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from orchestrator.errors import UserError

STOP_SECONDS = 20.0
"""For the requests that are under way."""


def run_server(words: Sequence[str], host: str, port: int, environment: Mapping[str, str]) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        words: options of `mlflow server`; everyone on the machine can read them.
        host: the address to listen on.
        port: of that address.
        environment: beside this process' own; the database's address is in it.

    Raises:
        UserError: it could not start.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), *words]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    # in a session of its own: the server starts processes, and all of them have to go with it
    server = subprocess.Popen(command, env=os.environ | settings, start_new_session=True)  # noqa: S603
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(server)
    if code:
        raise UserError(f"MLflow's server ended with code {code}; is port {port} in use? --port takes another")


def _end(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
            return
