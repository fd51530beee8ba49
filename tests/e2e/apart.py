"""A cluster whose parts see each other over a network only: head, two workers, services and client on hosts apart.

Every host is a network namespace (tests/hosts.py). Storage is S3, the record Postgres behind flatsweep's own tracking
server with users and passwords, and Ray wants a token.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hosts import Hosts
from sweeping import environment

BIN = Path(sys.executable).parent
TESTS = Path(__file__).parent.parent
HEAD, STORE, CLIENT = "head", "store", "client"
WORKERS = ("one", "two")
JOBS_PORT, GCS_PORT = 8265, 6379
START_SECONDS = 240.0
RECORDS = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=5000)
print(json.dumps([{"tags": r.data.tags, "params": r.data.params, "metrics": r.data.metrics, "status": r.info.status,
                   "start_ms": r.info.start_time, "end_ms": r.info.end_time} for r in runs]))
"""


@dataclass
class Apart:
    """The cluster, as its client sees it."""

    folder: Path
    hosts: Hosts
    tracking: str
    bucket: str
    s3: Mapping[str, str]
    password: str
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{self.hosts.address(HEAD)}:{JOBS_PORT}"

    @property
    def unshared(self) -> Path:
        """A folder that is another one on the worker `two`."""
        return self.folder / "unshared"

    def credentials(self) -> dict[str, str]:
        """What client and cluster need to reach Ray and MLflow."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return token | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": self.password}

    def sweep(self, name: str, **changes: Any) -> Path:
        """A sweep file of the client's."""
        from sweeping import BASE

        file = self.folder / "client" / f"{name}.yaml"
        places = {"storage": f"{self.bucket}/sweeps", "tracking": {"uri": self.tracking}}
        file.write_text(json.dumps({"name": name} | BASE | places | changes, indent=1))
        return file

    def flatsweep(self, *words: str, timeout: float = 400, **env: str) -> "subprocess.CompletedProcess[str]":
        """A command of the client's, who has no credentials of the storage."""
        return subprocess.run(
            self.hosts.command(CLIENT, str(BIN / "flatsweep"), *words),
            cwd=self.folder / "client", env=self.client_environment(**env), capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def recorded(self, sweep: str) -> list[dict[str, Any]]:
        """The runs of a sweep's trials, as anybody on the network sees them."""
        words = self.hosts.command(CLIENT, sys.executable, "-c", RECORDS, self.tracking)
        done = subprocess.run(words, env=self.client_environment(), capture_output=True, text=True, check=True)
        runs = [run for run in json.loads(done.stdout) if run["tags"].get("flatsweep.sweep") == sweep]
        return [run for run in runs if run["tags"]["flatsweep.kind"] == "trial"]

    def client_environment(self, **env: str) -> dict[str, str]:
        return environment(**self.credentials()) | {"RAY_ADDRESS": self.address} | env

    def start_node(self, name: str) -> None:
        """Ray on a host, with a host name of its own; on `two`, one folder is another."""
        ray = [
            str(BIN / "ray"),
            "start",
            "--block",
            "--disable-usage-stats",
            "--num-cpus",
            "0" if name == HEAD else "1",
        ]
        ray += ["--node-ip-address", self.hosts.address(name), "--object-store-memory", str(100 * 2**20)]
        if name == HEAD:
            ray += ["--head", "--port", str(GCS_PORT), "--dashboard-host", self.hosts.address(HEAD)]
            ray += ["--dashboard-port", str(JOBS_PORT), "--temp-dir", str(self.folder / "ray")]
        else:
            ray += ["--address", f"{self.hosts.address(HEAD)}:{GCS_PORT}"]
        # nodes share nothing of Ray's: one would delete the files of jobs that another still needs
        own = [self.folder / "ray"] if name != HEAD else []
        own += [self.unshared] if name == "two" else []
        mounts = "".join(f"mount -t tmpfs none {place} && " for place in own)
        script = f"hostname {name} && {mounts}exec {' '.join(ray)}"
        kept = environment(**self.credentials(), **self.s3, PATH=f"{BIN}:{os.environ['PATH']}")
        with (self.folder / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                self.hosts.command(name, "unshare", "--uts", "--mount", "sh", "-c", script),
                stdout=log, stderr=log, env=kept, start_new_session=True,
            )  # fmt: skip

    def start_nodes(self, names: Sequence[str]) -> None:
        """One after another, again where a busy machine was too slow for Ray (see `orchestrator.ray_session._init`)."""
        for name in names:
            until, log = time.monotonic() + START_SECONDS, self.folder / f"{name}.log"
            self.start_node(name)
            while "Ray runtime started" not in log.read_text():
                assert time.monotonic() < until, log.read_text()[-2000:]
                if self.nodes[name].poll() is not None:
                    self.start_node(name)
                time.sleep(0.5)

    def stop_node(self, name: str) -> None:
        process = self.nodes.pop(name)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)

    def stop(self) -> None:
        """Ends all nodes."""
        for name in list(self.nodes):
            self.stop_node(name)


@contextlib.contextmanager
def cluster_apart(workers: Sequence[str] = WORKERS) -> Iterator[Apart]:
    """The whole of it, for the time of the block."""
    folder = Path(tempfile.mkdtemp(prefix="fsa-"))  # short: Ray's sockets lie in it
    for name in ("client", "unshared", "server", "ray"):
        (folder / name).mkdir()
    password = secrets.token_hex(12)
    for name, content in (("password", password), ("token", secrets.token_hex(32))):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        hosts = stack.enter_context(Hosts([HEAD, *workers, STORE, CLIENT]))
        said = stack.enter_context(_services(folder, hosts))
        apart = Apart(folder, hosts, said["tracking"], said["bucket"], said["s3"], password)
        stack.callback(apart.stop)
        apart.start_nodes([HEAD, *workers])
        yield apart


@contextlib.contextmanager
def _services(folder: Path, hosts: Hosts) -> Iterator[dict[str, Any]]:
    words = [sys.executable, str(TESTS / "e2e/services.py"), str(folder), hosts.address(STORE)]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with (folder / "services.log").open("wb") as log:
        process = subprocess.Popen(
            hosts.command(STORE, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=environment(PYTHONPATH=paths, TMPDIR="/tmp"),
        )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        assert line, (folder / "services.log").read_text()[-3000:]
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait(60)
