"""What is at a tracking server's address, asked as MLflow's client asks: with its credentials, proxies and TLS."""

import json
import time
from typing import Any

from orchestrator.addresses import hidden, shown
from orchestrator.tracking_place import quiet

SECONDS = 8.0
"""For all questions together."""
API = "/api/2.0/mlflow"
NO_ANSWER = "no answer from the tracking server"
"""How the sentence begins that says so; another machine may get one."""
BAD_HOST = "Invalid Host header"
"""How MLflow's refusal of an unknown name begins (mlflow.server.security_utils.INVALID_HOST_MSG)."""
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials"


class _RefusalError(Exception):
    """What is wrong, in one sentence."""


def server_problem(uri: str, experiment: str | None = None) -> str | None:
    """Why a tracking server cannot be used, in one sentence; None where it can. Nothing is written.

    Args:
        uri: of the server.
        experiment: name of an experiment where runs are to be made.
    """
    quiet()
    look = _Look(uri)
    try:
        look.ask("GET", "/experiments/search", {"max_results": 1})
        if experiment is not None:
            _may_write(look, experiment)
    except _RefusalError as refusal:
        return str(refusal)
    return None


def _may_write(look: "_Look", experiment: str) -> None:
    """Asks for what can never be done, a run that starts at no time: who may not make runs is told so first."""
    found = look.ask("GET", "/experiments/get-by-name", {"experiment_name": experiment}, unless=404)
    if found is None:
        look.ask("POST", "/experiments/create", {}, unless=400)
        return
    held = found.get("experiment", {})
    if held.get("lifecycle_stage") == "deleted":
        raise _RefusalError(
            f"experiment '{experiment}' was deleted in MLflow: restore it, or name another (tracking.experiment)"
        )
    look.ask("POST", "/runs/create", {"experiment_id": held.get("experiment_id"), "start_time": "never"}, unless=400)


class _Look:
    """Questions to one server, with one time for all of them."""

    def __init__(self, uri: str) -> None:
        from mlflow.utils.credentials import get_default_host_creds

        self.uri, self._until = uri, time.monotonic() + SECONDS
        self._creds = get_default_host_creds(uri)

    def ask(self, method: str, path: str, values: dict[str, Any], unless: int | None = None) -> dict[str, Any] | None:
        """The answer, or None where its status is `unless`.

        Raises:
            _RefusalError: no answer, or one that MLflow does not give to who may do this.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.utils.rest_utils import http_request

        given = {"params": values} if method == "GET" else {"json": values}
        left = max(0.5, self._until - time.monotonic())
        try:
            answer = http_request(
                self._creds, API + path, method, max_retries=0, timeout=left, raise_on_status=False, **given
            )
        except (MlflowException, OSError, ValueError) as error:
            raise _RefusalError(f"{NO_ANSWER} {shown(self.uri)}: {self._reason(error)}") from error
        body = _json(answer.text)
        if answer.status_code == 200 and body is not None:
            return body
        if answer.status_code == unless and body is not None and "error_code" in body:
            return None
        raise _RefusalError(self._said(answer, body))

    def _said(self, answer: Any, body: dict[str, Any] | None) -> str:
        server = f"the tracking server {shown(self.uri)}"
        if answer.status_code == 401:
            return f"{server} {self._who()}"
        if answer.status_code == 403 and answer.text.startswith(BAD_HOST):
            return (
                f"{server} refuses to be called by this name: start it with `flatsweep server --allowed-host NAME` "
                f"(MLflow: --allowed-hosts), or use a name that it knows"
            )
        if answer.status_code == 403:
            who = f"user '{self._creds.username}'" if self._creds.username else "whoever has these credentials"
            return f"{server} does not let {who} write here: an admin, or who made the experiment, can (EDIT)"
        if body is not None and "error_code" in body:
            message = (str(body.get("message", "")).splitlines() or [""])[0][:300]
            return f"{server} has a problem of its own: {answer.status_code} {body['error_code']}: {message}"
        return (
            f"{shown(self.uri)} is no MLflow server: it answers {API} with status {answer.status_code} and "
            f"{'something else than JSON' if body is None else 'other JSON'}; is the address complete?"
        )

    def _who(self) -> str:
        if self._creds.username and self._creds.password:
            return f"does not accept user '{self._creds.username}' with this password ({CREDENTIALS})"
        if self._creds.token:
            return "does not accept this token (MLFLOW_TRACKING_TOKEN)"
        return f"wants a user and a password: set {CREDENTIALS}"

    def _reason(self, error: BaseException) -> str:
        """The system's own words, which lie below those of three libraries."""
        below: BaseException | None = error
        reason = ""
        while below is not None:
            if isinstance(below, TimeoutError):
                return f"none within {SECONDS:g} s"
            if isinstance(below, OSError) and below.strerror:
                reason = below.strerror
            inner = getattr(below, "reason", None) or (below.args[0] if below.args else None)
            below = below.__cause__ or below.__context__ or (inner if isinstance(inner, BaseException) else None)
        return hidden(reason or str(error).splitlines()[0][:300], self.uri)


def _json(text: str) -> dict[str, Any] | None:
    """The object in a text; None where there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
