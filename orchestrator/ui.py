"""MLflow's own pages on a sweep's store."""

import contextlib
import os
import signal
import subprocess
import sys

from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store, tracking_uri


def serve(sweep: Sweep, port: int) -> None:
    """Serves the store on the loopback address until Ctrl-C; names the page of a store that has a server already.

    Raises:
        UserError: nothing is recorded yet, or the server could not start.
    """
    uri = tracking_uri(sweep)
    store = Store.existing(sweep)
    if store is None or store.experiment_id is None:
        raise UserError(f"nothing is recorded of sweep '{sweep.name}' in {uri}")
    page = f"#/experiments/{store.experiment_id}/runs"
    if uri.startswith(("http://", "https://")):
        print(f"{uri.rstrip('/')}/{page}")
        return
    print(f"http://127.0.0.1:{port}/{page}  (Ctrl-C ends it)", flush=True)
    words = ["server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # in a session of its own: the server starts processes, and all of them have to go with it
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], start_new_session=True)  # noqa: S603
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    if code:
        raise UserError(f"MLflow's server ended with code {code}; is port {port} in use? --port takes another")
