"""The stack of docker/compose.yaml without an engine: the image is built, and head, workers and MLflow run inside it.

What they are started with (commands, environment, secrets, ports, health checks, the order) is read from the file, so
that file and rehearsal cannot drift apart. Postgres is Debian's and the store is moto's S3 server: their images need an
engine. Most of the time and room (20 GB in TMPDIR while it builds) goes to torch's libraries;
FLATSWEEP_TEST_IMAGES=FOLDER keeps what was built for the next run.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hosts as networks
import image as images
import postgres
import pytest
from composing import DOCKER, ROOT, ports, services
from containers import Container
from hosts import Hosts
from image import Image, built

from orchestrator.versions import git_commit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(images.why_not() is not None, reason=str(images.why_not())),
    pytest.mark.skipif(networks.why_not() is not None, reason=str(networks.why_not())),
    pytest.mark.skipif(postgres.programs() is None, reason=postgres.NO_PROGRAMS),
]

SERVICES = services()
WORKERS = ("worker", "worker2")
"""As `--scale worker=2`."""
CLIENT = "client"
FLATSWEEP = Path(sys.executable).with_name("flatsweep")
COMMIT = git_commit(ROOT).removesuffix("-dirty") or "unknown"
SWEEP: dict[str, Any] = {
    "name": "rehearsal",
    "data": {"name": "digits", "train_size": 200},
    "model": {"name": "small_preact_resnet", "width": 8},
    "training": {"epochs": 2, "batch_size": 100, "attack": {"eps": 0.15, "steps": 2, "step_size": 0.05}},
    "grid": {"methods": ["at"], "seeds": [0, 1]},
    "evaluation": {"measures": [{"name": "robustness", "attack": {"steps": 2, "step_size": 0.05}}]},
    "storage": "s3://flatsweep/sweeps",
}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built("cpu", COMMIT) as found:
        yield found


@dataclass
class Stack:
    """The services, and a client beside them who reaches what is published on its loopback."""

    folder: Path
    hosts: Hosts
    containers: dict[str, Container] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def client_environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "AWS_"))}
        told = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray_token"),
            "RAY_ADDRESS": "http://127.0.0.1:8265",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow_admin_password"),
        }
        return kept | told | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.folder / "cache")} | more

    def outside(self, *words: str, timeout: float = 900, **env: str) -> "subprocess.CompletedProcess[str]":
        """A command of the client's."""
        return subprocess.run(
            self.hosts.command(CLIENT, *words), env=self.client_environment(**env), cwd=self.folder / "client",
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def flatsweep(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.outside(sys.executable, "-c", "from orchestrator.cli import main; main()", *words, **env)

    def ask(self, url: str, **headers: str) -> int:
        """The status that the client gets."""
        given = json.dumps([url, {name.replace("_", "-"): value for name, value in headers.items()}])
        done = self.outside(sys.executable, "-S", "-c", ASK, given)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def runs(self) -> list[dict[str, Any]]:
        """Everything on the tracking server."""
        done = self.outside(sys.executable, "-c", RECORDS)
        assert done.returncode == 0, done.stderr
        return sorted(json.loads(done.stdout), key=lambda run: run["id"])


ASK = """
import json, sys, urllib.error, urllib.request
url, headers = json.loads(sys.argv[1])
try:
    print(urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
RECORDS = """
import json
from mlflow import MlflowClient
client = MlflowClient()
found = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
print(json.dumps([
    {"id": run.info.run_id, "status": run.info.status, "tags": run.data.tags, "metrics": run.data.metrics,
     "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id))}
    for run in found
]))
"""


@contextlib.contextmanager
def standing_in(hosts: Hosts, folder: Path, host: str, *words: str) -> Iterator[None]:
    """One of tests/docker/stand_in.py, on a host."""
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with (folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(
            hosts.command(host, sys.executable, str(Path(__file__).with_name("stand_in.py")), *words),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == b"ready\n", (folder / f"{host}.log").read_text()[-3000:]
        yield
    finally:
        process.stdin.close()
        process.wait(60)


def in_order(services: dict[str, dict[str, Any]]) -> list[str]:
    """The services so that each comes after those it waits for."""
    found: list[str] = []
    while len(found) < len(services):
        ready = [
            name for name in services if name not in found and set(services[name].get("depends_on", {})) <= set(found)
        ]
        assert ready, "services wait for each other in a circle"
        found += ready
    return found


@pytest.fixture(scope="module")
def stack(image: Image) -> Iterator[Stack]:
    """All services, started as `docker compose up --wait --scale worker=2` would."""
    folder = Path(tempfile.mkdtemp(prefix="fs-stack-"))
    folder.chmod(0o755)  # the containers' user has to pass
    with contextlib.ExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        subprocess.run(["sh", str(DOCKER / "make-secrets"), str(folder / "secrets")], check=True, capture_output=True)
        (folder / "client").mkdir()
        hosts = closing.enter_context(Hosts([*SERVICES, *WORKERS[1:], CLIENT]))
        stack = Stack(folder, hosts)
        stand_ins = {
            "postgres": ("postgres", hosts.address("postgres"), str(stack.secrets)),
            "store": ("store", hosts.address("store")),
        }
        for name in in_order(SERVICES):
            if name in stand_ins:
                closing.enter_context(standing_in(hosts, folder, name, *stand_ins[name]))
                continue
            for one in WORKERS if name == "worker" else (name,):
                container = Container(image, SERVICES[name], one, hosts, folder / one, stack.secrets)
                stack.containers[one] = container
                container.start()
                closing.callback(container.kill)
                if SERVICES[name]["healthcheck"].get("disable"):
                    assert container.wait(120) == 0, container.tail()
                else:
                    container.wait_healthy()
        ways = [f"{name}:{port.inside}" for name, service in SERVICES.items() for port in ports(service)]
        closing.enter_context(standing_in(hosts, folder, CLIENT, "ports", *ways))
        yield stack


@pytest.fixture(scope="module")
def submitted(stack: Stack) -> "subprocess.CompletedProcess[str]":
    (stack.folder / "client" / "sweep.yaml").write_text(json.dumps(SWEEP))
    return stack.flatsweep("submit", "sweep.yaml")


def test_the_image_runs_as_nobody_special_and_holds_no_settings_of_the_builder(image: Image) -> None:
    assert image.user == (1000, 1000)
    assert image.config["Healthcheck"]["Test"] == ["CMD", "ray_health.py", "node"]
    assert not (image.root / "etc/pip.conf").exists() and not (image.root / "etc/uv").exists()
    assert not (image.root / "build").exists() and not (image.root / "opt/flatsweep/bin/pip").exists()
    assert not list((image.root / "etc/apt/apt.conf.d").glob("zz-build"))
    # owned by root and closed to others: what runs inside cannot change what runs next
    code = image.root / "opt/flatsweep/lib/python3.11/site-packages/orchestrator/cli/app.py"
    assert code.stat().st_uid == 0 and not code.stat().st_mode & 0o022
    assert not list(image.root.glob("opt/flatsweep/lib/**/*.a"))


def test_the_image_says_its_commit(image: Image) -> None:
    file = image.root / "opt/flatsweep/lib/python3.11/site-packages/orchestrator/COMMIT"
    assert file.read_text().strip() == COMMIT


def test_a_container_has_no_rights_and_cannot_write_to_the_image(stack: Stack) -> None:
    head = stack.containers["head"]
    status = head.execute("cat", "/proc/self/status").stdout
    assert re.search(r"^Uid:\s+1000\s+1000\s+1000\s+1000$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert "Read-only file system" in head.execute("touch", "/opt/flatsweep/new").stderr
    assert stack.secret("ray_token") not in head.execute("cat", "/proc/1/environ").stdout
    assert head.execute("bash", "-lc", "command -v ray").stdout == "/opt/flatsweep/bin/ray\n"


def test_every_service_became_healthy_and_its_check_can_fail(stack: Stack) -> None:
    for name in ("head", *WORKERS, "mlflow"):
        assert stack.containers[name].check().returncode == 0
    elsewhere = stack.containers["mlflow"]  # no Ray runs there
    for what in ("node", "head"):
        done = elsewhere.execute("ray_health.py", what)
        assert done.returncode == 1 and "unhealthy" in done.stderr
    worker = stack.containers["worker"]  # a node, but without the Jobs API
    assert worker.execute("ray_health.py", "node").returncode == 0
    assert worker.execute("ray_health.py", "head").returncode == 1


def test_a_sweep_from_outside(stack: Stack, submitted: "subprocess.CompletedProcess[str]") -> None:
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr + stack.containers["head"].tail()
    runs = stack.runs()
    trials = [run for run in runs if run["tags"].get("flatsweep.kind") == "trial"]
    assert [run["status"] for run in trials] == ["FINISHED", "FINISHED"]
    assert all({"train/loss", "robust_loss_gap"} <= set(run["metrics"]) for run in trials)
    assert {run["tags"]["flatsweep.code_commit"] for run in trials} == {COMMIT}
    (parent,) = [run for run in runs if run["tags"].get("flatsweep.kind") == "sweep"]
    assert parent["status"] == "FINISHED" and parent["artifacts"]  # through MLflow; the client has no key of the store


def test_submitting_again_finds_everything_done(stack: Stack, submitted: "subprocess.CompletedProcess[str]") -> None:
    before = stack.runs()
    done = stack.flatsweep("submit", "sweep.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert stack.runs() == before


def test_who_has_no_token_or_password_is_refused(stack: Stack) -> None:
    jobs, experiments = "http://127.0.0.1:8265/api/jobs/", "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get"
    assert stack.ask(jobs) == 401
    assert stack.ask(jobs, authorization="Bearer wrong") == 403
    assert stack.ask(jobs, authorization=f"Bearer {stack.secret('ray_token')}") == 200
    assert stack.ask(f"{experiments}?experiment_id=0") == 401
    wrong = stack.folder / "wrong"
    wrong.write_text("0" * 64)
    done = stack.flatsweep("submit", "sweep.yaml", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode == 2 and "refuses this token" in done.stderr


def test_mlflow_is_unhealthy_without_its_database(stack: Stack) -> None:
    """MLflow's own /health says 200 all the while."""
    mlflow = stack.containers["mlflow"]
    stack.hosts.cut("postgres")
    try:
        assert mlflow.check().returncode == 1
        assert stack.ask("http://127.0.0.1:5000/health") == 200
    finally:
        stack.hosts.mend("postgres")
    mlflow.wait_healthy()


def test_saved_and_put_back_as_the_page_says(
    stack: Stack, submitted: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    before = stack.runs()
    assert before
    environment = os.environ | {
        "PGHOST": stack.hosts.address("postgres"),
        "PGPASSWORD": stack.secret("postgres_password"),
    }

    def inside_postgres(line: str) -> None:
        words = stack.hosts.command("postgres", "sh", "-eu", "-c", line)
        subprocess.run(words, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=200)

    def start_mlflow() -> None:
        stack.containers["mlflow"].start()
        stack.containers["mlflow"].wait_healthy()

    steps: dict[str, Callable[[], object]] = {
        "stop mlflow": stack.containers["mlflow"].stop,
        "up -d --wait mlflow": start_mlflow,
    }
    done = []
    for line in commands("Save and put back"):
        if match := re.match(r"exec -T postgres (.*)", line):
            inside_postgres(match[1])
        elif line in steps:
            steps[line]()
        else:
            continue  # the store's volume, which has no stand-in
        done.append(line.split()[0])
        if "createdb" in line:
            with pytest.raises(subprocess.CalledProcessError):
                inside_postgres("psql --username mlflow --dbname mlflow --command 'SELECT 1 FROM runs'")
    assert done == ["exec", "stop", "exec", "exec", "exec", "up"]
    assert stack.runs() == before


def commands(section: str) -> list[str]:
    """What a section of docker/README.md tells to type after `docker compose`, redirections to files included."""
    text = (DOCKER / "README.md").read_text()
    (body,) = re.findall(rf"(?m)^## {section}\n(.*?)(?=^## |\Z)", text, re.DOTALL)
    joined = body.replace("\\\n", " ")
    return [" ".join(line.split()) for line in re.findall(r"(?m)^\$ docker compose (.*)$", joined)]


def test_a_worker_that_is_stopped_leaves_and_comes_back(stack: Stack) -> None:
    worker = stack.containers[WORKERS[1]]
    assert worker.stop() != -9, worker.tail()  # within its time of grace
    assert worker.check().returncode == 1
    worker.start()
    worker.wait_healthy()
