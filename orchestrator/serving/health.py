"""Whether a server works, for those who watch over it, such as a container's health check."""

import os
from pathlib import Path

from orchestrator.addresses import is_server, refusal, shown
from orchestrator.errors import UserError
from orchestrator.serving.passwords import ADMIN_PASSWORD, read_password
from orchestrator.serving.probe import server_problem

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def health(uri: str, admin: str, password_file: Path | None) -> tuple[bool, str]:
    """Whether the server answers a call of its API, and one sentence.

    MLflow's own variables say who asks; without them it is the admin, with the password that the server was given.

    Raises:
        UserError: `uri` is none of a server, or has a password in it.
    """
    if reason := refusal(uri):
        raise UserError(f"--check: {reason}")
    if not is_server(uri):
        raise UserError(f"--check {uri}: give the address of a server, such as http://127.0.0.1:5000")
    if not os.environ.get(USER) and not os.environ.get("MLFLOW_TRACKING_TOKEN"):
        password = read_password(password_file) if password_file else os.environ.get(ADMIN_PASSWORD)
        if password:
            os.environ |= {USER: admin, PASSWORD: password}
    problem = server_problem(uri)
    return problem is None, problem or f"the tracking server {shown(uri)} works"
