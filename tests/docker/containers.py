"""Containers without an engine: a service of the compose file, inside the image, as Docker would start it.

Each has a network, processes, mounts and a host name of its own. The image is read-only for all of them; what Docker
would keep in the container or in a volume lies in a folder of the test.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composing import mounted_secrets, size
from hosts import Hosts
from image import Image

WRITABLE = ("/tmp", "/home/flatsweep", "/run", "/var/lib/flatsweep", "/data")
"""Folders of the image that a container may write to."""
SHARED_MEMORY = 64 * 2**20
"""Docker's default, in bytes."""


@dataclass
class Container:
    """One container of a service.

    Args:
        image: what it runs.
        service: from the compose file.
        name: of its host.
        folder: for what it writes, and its log.
        secrets: the folder that docker/make-secrets filled.
    """

    image: Image
    service: Mapping[str, Any]
    name: str
    hosts: Hosts
    folder: Path
    secrets: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def start(self) -> None:
        """Starts its command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        script = self.folder / "start.sh"
        script.write_text("\n".join([*self._mounts(), self._line(self.service["command"], wait=True)]) + "\n")
        words = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-eu", str(script)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.hosts.command(self.name, *words), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def check(self) -> "subprocess.CompletedProcess[str]":
        """Runs its health check, of the compose file or else of the image, as Docker would: inside."""
        test = list(self.service.get("healthcheck", {}).get("test") or self.image.config["Healthcheck"]["Test"])
        assert test.pop(0) == "CMD"
        return self.execute(*test)

    def execute(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command beside its own."""
        inner = self._inner()
        if inner is None:
            return subprocess.CompletedProcess(list(words), 1, "", "the container does not run")
        entering = ["nsenter", "--target", str(inner), "--mount", "--pid", "--ipc", "--uts", "--net"]
        return subprocess.run(
            [*entering, "sh", "-eu", "-c", self._line(words)], capture_output=True, text=True, timeout=120, check=False
        )

    def wait(self, seconds: float) -> int:
        """Until its command ends; returns the exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def wait_healthy(self, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while (said := self.check()).returncode:
            assert self.process is not None and self.process.poll() is None, f"{self.name} ended: {self.tail()}"
            assert time.monotonic() < until, f"{self.name} is not healthy: {said.stdout}{said.stderr}\n{self.tail()}"
            time.sleep(2)

    def stop(self) -> int:
        """As `docker compose stop`: SIGTERM to its first process, SIGKILL after its time of grace; the exit code."""
        assert self.process is not None
        if (inner := self._inner()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(int(self.service.get("stop_grace_period", "10s").removesuffix("s")))
        self.kill()
        return -signal.SIGKILL

    def kill(self) -> None:
        """Ends all of it at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # unshare takes the inner processes with it
            self.process.wait(30)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _inner(self) -> int | None:
        """The first process inside, as this machine numbers it."""
        if self.process is None or self.process.poll() is not None:
            return None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _mounts(self) -> list[str]:
        root, memory = self.image.root, size(self.service["shm_size"]) if "shm_size" in self.service else SHARED_MEMORY
        lines = [
            "mount --make-rprivate /",
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o size={memory},mode=1777 shm {root}/dev/shm",
            f"hostname {self.name}",
        ]
        # of the namespace: `ip` has laid it over this machine's
        lines.append(f"mount --bind /etc/hosts {root}/etc/hosts")
        owner, group = self.image.user
        for place in WRITABLE:
            own = self.folder / "files" / place.strip("/").replace("/", "-")
            if not own.exists():
                own.mkdir(parents=True)
                os.chown(own, owner, group)
                own.chmod(0o1777 if place == "/tmp" else 0o755)
            lines.append(f"mount --bind {own} {root}{place}")
        for name, place in mounted_secrets(self.service).items():
            inside = f"{root}{place}"
            lines += [
                f"mkdir -p {Path(inside).parent}",
                f": > {inside}",
                f"mount --bind {self.secrets / name} {inside}",
                f"mount -o remount,bind,ro {inside}",
            ]
        return lines

    def _line(self, words: Sequence[str], wait: bool = False) -> str:
        """A command inside the image, as its user and without a capability."""
        owner, group = self.image.user
        environment = self.image.environment | self.service.get("environment", {})
        given = [f"{key}={value}" for key, value in {"HOME": self.image.config["WorkingDir"], **environment}.items()]
        leave = ["--reuid", str(owner), "--regid", str(group), "--clear-groups", "--no-new-privs"]
        leave += ["--bounding-set", "-all", "--inh-caps", "-all"]
        inside = ["chroot", str(self.image.root), "setpriv", *leave]
        inside += ["env", "--ignore-environment", f"--chdir={self.image.config['WorkingDir']}", *given, *words]
        if not wait:
            return shlex.join(inside)
        # as Docker's init: passes the signal on, collects what is left behind, ends with the command's exit code
        waiting = 'child=$!\ntrap \'kill -TERM "$child"\' TERM\ncode=0\nwait "$child" || code=$?\n'
        again = 'while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done\nexit "$code"'
        return f"{shlex.join(inside)} &\n{waiting}{again}"
