"""MLflow's own pages on a sweep's store."""

from orchestrator.addresses import is_server, public, shown
from orchestrator.errors import UserError
from orchestrator.serving.process import run_server
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri

HOST = "127.0.0.1"


def serve_pages(sweep: Sweep, port: int) -> None:
    """Serves the store on the loopback address until Ctrl-C; names the page of a store that has a server already.

    Raises:
        UserError: nothing is recorded yet, or the server could not start.
    """
    uri = tracking_uri(sweep)
    store = Store.existing(sweep)
    if store is None or store.experiment_id is None:
        raise UserError(f"nothing is recorded of sweep '{sweep.name}' in {shown(uri)}")
    page = f"#/experiments/{store.experiment_id}/runs"
    if is_server(uri):
        print(f"{public(uri).rstrip('/')}/{page}")
        return
    print(f"http://{HOST}:{port}/{page}  (Ctrl-C ends it)", flush=True)
    run_server(["--workers", "1"], HOST, port, {"MLFLOW_BACKEND_STORE_URI": uri})
