"""The driver of a sweep on a cluster: what a Ray job runs, in the folder that came with it."""

import contextlib
import io
import os
import sys
from pathlib import Path

from orchestrator.cluster.request import Request, event, mismatch
from orchestrator.errors import UserError
from orchestrator.versions import own_code

CLUSTER = "auto"
"""The address of the cluster that a job runs on."""


def main() -> int:
    """Carries out the request of a client; returns the exit code, 2 with one message where it cannot be."""
    try:
        try:
            request = Request.read(Path.cwd())
        except ValueError as error:
            raise UserError(
                f"the cluster's flatsweep {own_code()} does not understand this machine's request: install the same "
                "on both, or send this machine's with --wheel"
            ) from error
        if problem := mismatch(request.code, own_code(), "the cluster"):
            raise UserError(problem)
        if request.tracking_uri:
            os.environ.setdefault("MLFLOW_TRACKING_URI", request.tracking_uri)
        return _carry_out(request)
    except UserError as error:
        print(event("refused", message=str(error)), flush=True)
        return 2


def _carry_out(request: Request) -> int:
    from orchestrator.cli.running import carry_out

    def started() -> None:
        print(event("started"), flush=True)

    if not request.options.as_json:
        return carry_out(request, CLUSTER, started)
    # a job has one stream for everything: what belongs on the client's standard output travels as an event
    result = io.StringIO()
    with contextlib.redirect_stdout(result):
        code = carry_out(request, CLUSTER, lambda: print(event("started"), flush=True, file=sys.__stdout__))
    print(event("result", text=result.getvalue()), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
