"""Hosts of one's own: network namespaces with addresses, joined by a bridge, gone at the end. For tests of clusters.

    with Hosts(["head", "worker"]) as hosts:
        subprocess.Popen(hosts.command("head", "ray", "start", ...))
        hosts.address("head")

They share this machine's files, and nothing of its network: no packet leaves the bridge. Where namespaces may not be
made (`why_not()` says so), skip.
"""

import contextlib
import functools
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

START_SECONDS = 90.0
NAMES = Path("/etc/netns")
"""Where `ip` looks for files of a namespace."""


@functools.cache
def why_not() -> str | None:
    """Why no hosts can be made here; None where they can."""
    if shutil.which("ip") is None:
        return "needs `ip`, as in Debian's package iproute2"
    name = f"fs{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces cannot be made here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Hosts:
    """Namespaces by name. All of it is removed by `with`, whatever happened inside.

    Args:
        names: of the hosts, in the order of their addresses.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._token = secrets.token_hex(3)
        self._net = f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self._numbers = {name: number for number, name in enumerate(names, 2)}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Hosts":
        with contextlib.ExitStack() as stack:
            switch = f"fs{self._token}-sw"
            _ip("netns", "add", switch)
            stack.callback(_ip, "netns", "delete", switch)
            _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", switch, "link", "set", "bridge", "up")
            for name, number in self._numbers.items():
                space = self._space(name)
                _ip("netns", "add", space)
                stack.callback(_ip, "netns", "delete", space)
                ends = f"v{self._token}{number}a", f"v{self._token}{number}b"
                _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
                _ip("link", "set", ends[0], "netns", switch)
                _ip("-n", switch, "link", "set", ends[0], "master", "bridge", "up")
                _ip("link", "set", ends[1], "netns", space, "name", "eth0")
                _ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", space, "link", "set", device, "up")
                self._name_hosts(space)
                stack.callback(shutil.rmtree, NAMES / space)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        """The host's own, which the others reach."""
        return f"{self._net}.{self._numbers[name]}"

    def command(self, name: str, *words: str) -> list[str]:
        """A command as it is run on the host."""
        return ["ip", "netns", "exec", self._space(name), *words]

    def _name_hosts(self, space: str) -> None:
        """Lets commands on a host find the others by name: `ip` lays this file over /etc/hosts for them."""
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in self._numbers)]
        (NAMES / space).mkdir(parents=True)
        (NAMES / space / "hosts").write_text("\n".join(lines) + "\n")

    def cut(self, name: str) -> None:
        """Takes the host off the network."""
        _ip("-n", self._space(name), "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Puts it back."""
        _ip("-n", self._space(name), "link", "set", "eth0", "up")

    def wait_for_port(
        self, name: str, port: int, process: subprocess.Popen[bytes], seconds: float = START_SECONDS
    ) -> None:
        """Waits until something on the host listens, as long as the process that is to do so lives."""
        until = time.monotonic() + seconds
        probe = f"import socket; socket.create_connection(({self.address(name)!r}, {port}), 2)"
        words = self.command(name, os.environ.get("PYTHON", "python3"), "-S", "-c", probe)
        while subprocess.run(words, capture_output=True, check=False).returncode:
            if process.poll() is not None:
                raise RuntimeError(f"the process for port {port} on {name} ended with code {process.returncode}")
            if time.monotonic() > until:
                raise TimeoutError(f"nothing listens on port {port} of {name}")
            time.sleep(0.5)

    def _space(self, name: str) -> str:
        return f"fs{self._token}-{name}"


def free_port() -> int:
    """A port that nobody on loopback listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
