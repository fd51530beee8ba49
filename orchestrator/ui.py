"""MLflow's own pages on a sweep's store."""

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
    try:
        code = subprocess.run([sys.executable, "-m", "mlflow", *words], check=False).returncode  # noqa: S603
    except KeyboardInterrupt:
        return
    if code:
        raise UserError(f"MLflow's server ended with code {code}; is port {port} in use? --port takes another")
