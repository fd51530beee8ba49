"""Where a server listens, and by which names it may be called."""

import ipaddress
import socket
from collections.abc import Sequence

from orchestrator.errors import UserError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def allowed_hosts(host: str, names: Sequence[str]) -> list[str]:
    """Patterns of the Host headers that the server answers to, with and without a port.

    Raises:
        UserError: no name was given for a server that others are to reach, or one that is none.
    """
    every = {"0.0.0.0", "::"}  # noqa: S104  (what is to be recognised)
    own = [] if is_loopback(host) or host in every else [f"[{host}]" if ":" in host else host]
    if host in every and not names:
        raise UserError(
            f"--host {host}: say by which names clients call this machine, such as --allowed-host "
            f"{socket.gethostname()}: MLflow refuses calls by any other, which guards against DNS rebinding"
        )
    for name in names:
        if not name.strip("*.") or any(char.isspace() or char in ",/@" for char in name):
            raise UserError(f"--allowed-host {name}: give a name such as mlflow.example.org or *.example.org")
    patterns = []
    for name in dict.fromkeys([*LOOPBACK_NAMES, *own, *names]):
        # a '[' begins a set of characters where there is a '*'
        patterns += [name, f"{name.replace('[', '[[]', 1)}:*"]
    return patterns


def is_loopback(host: str) -> bool:
    """Whether only this machine can call an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_free(host: str, port: int) -> None:
    """Refuses an address that is not this machine's, and a port that is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror or error}; --host, --port") from error
