"""docker/compose.yaml: that it is one, and that nothing in it is open, unpinned, unwatched or secret."""

import hashlib
import http.server
import json
import re
import stat
import subprocess
import threading
from importlib.resources import files
from pathlib import Path

import pytest
import typer.main
import yaml
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from composing import COMPOSE, DOCKER, DOCKERFILE, GPU, ROOT, mounted_secrets, ports, program, read, services, size
from jsonschema.validators import validator_for

from orchestrator.cli.app import app
from orchestrator.serving.passwords import weakness

SERVICES = services()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)


def awaited(name: str) -> set[str]:
    """The conditions on which other services wait for this one."""
    waits = [service.get("depends_on", {}).get(name, {}) for service in SERVICES.values()]
    return {wait["condition"] for wait in waits if wait}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=100, cwd=ROOT)


def test_the_specification_allows_it() -> None:
    """That of compose files, as check-jsonschema carries it."""
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    validator = validator_for(schema)(schema)
    for file in (COMPOSE, GPU):
        assert not list(validator.iter_errors(yaml.safe_load(file.read_text())))
    wrong = COMPOSE.read_text().replace("shm_size:", "shm-size:")
    assert not validator.is_valid(yaml.safe_load(wrong))  # it would refuse a mistake


@pytest.mark.parametrize("given", [[COMPOSE], [COMPOSE, GPU]], ids=["alone", "with gpu"])
def test_docker_reads_it(given: list[Path]) -> None:
    docker = program("docker")
    if docker is None or run(docker, "compose", "version").returncode:
        pytest.skip("needs a docker client with its plugin compose")
    options = [word for file in given for word in ("-f", str(file))]
    done = run(docker, "compose", *options, "config", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_or_awaited(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if check.get("disable"):
        assert awaited(name) == {"service_completed_successfully"}
        assert SERVICES[name]["restart"] == "on-failure"
    else:
        assert check["test"][0] in {"CMD", "CMD-SHELL"} and check["retries"] and check["start_period"]
        assert awaited(name) <= {"service_healthy"}
        assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    image, tag = SERVICES[name]["image"].rsplit(":", 1)
    assert "/" not in tag and re.match(r"\d+\.\d+", tag), f"{image}:{tag}"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_can_become_it(name: str) -> None:
    service = SERVICES[name]
    users = re.findall(r"^USER (\S+)", DOCKERFILE.read_text(), re.MULTILINE) if name in OURS else [service["user"]]
    owner, group = users[-1].split(":")
    assert int(owner) > 0 and int(group) > 0
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)


def test_only_jobs_and_mlflow_are_published_and_on_loopback() -> None:
    published = {(name, port.inside): port.address for name, service in SERVICES.items() for port in ports(service)}
    assert published == {("head", 8265): "127.0.0.1", ("mlflow", 5000): "127.0.0.1"}


def test_only_mlflow_reaches_the_database() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name, joined in networks.items() if "database" in joined} == {"postgres", "mlflow"}
    assert networks["postgres"] == {"database"}
    assert read(COMPOSE)["networks"]["database"]["internal"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name: str) -> None:
    service = SERVICES[name]
    mounted = set(mounted_secrets(service).values())
    for variable, value in service.get("environment", {}).items():
        if SECRET_NAME.search(variable):
            assert value in mounted, f"{variable} names a file of the service's secrets, not {value}"
    for word in [*service.get("command", []), *service["healthcheck"].get("test", [])]:
        assert not re.search(r"://[^/@\s]+:[^/@\s]+@", word)
        option, _, value = word.partition("=")
        if option.startswith("-") and SECRET_NAME.search(option):
            assert value in mounted, word
    for secret in re.findall(r"/run/secrets/[\w.]+", json.dumps(service)):
        assert secret in mounted


def test_secrets_are_files_that_the_script_makes(tmp_path: Path) -> None:
    declared = read(COMPOSE)["secrets"]
    used = {name for service in SERVICES.values() for name in mounted_secrets(service)}
    assert used == set(declared)
    assert {secret["file"] for secret in declared.values()} == {f"./secrets/{name}" for name in declared}
    folder = tmp_path / "secrets"
    assert run("sh", DOCKER / "make-secrets", folder).returncode == 0
    made = {path.name: path for path in folder.iterdir()}
    assert set(made) == set(declared)
    # others on the machine are kept out by the folder; users inside containers have other numbers
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.values()} == {0o444}


def test_secrets_are_new_strong_and_kept(tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, str]:
        assert run("sh", DOCKER / "make-secrets", folder).returncode == 0
        return {path.name: path.read_text() for path in folder.iterdir()}

    first, second = content(tmp_path / "first"), content(tmp_path / "second")
    assert all(first[name] != second[name] for name in first)
    for name in ("ray_token", "postgres_password", "mlflow_admin_password"):
        assert weakness(first[name]) is None and re.fullmatch("[0-9a-f]{48,}", first[name])
    assert f"mlflow_tracking_password = {first['mlflow_admin_password']}\n" in first["mlflow_credentials"]
    (identity,) = json.loads(first["s3_identities.json"])["identities"]
    (key,) = identity["credentials"]
    assert (
        f"aws_access_key_id = {key['accessKey']}\naws_secret_access_key = {key['secretKey']}\n"
        in first["s3_credentials"]
    )
    assert content(tmp_path / "first") == first
    (tmp_path / "first" / "ray_token").unlink()
    changed = content(tmp_path / "first")
    assert {name for name in first if first[name] != changed[name]} == {"ray_token"}


def test_secrets_are_never_committed_nor_in_the_image() -> None:
    assert run("git", "check-ignore", DOCKER / "secrets" / "ray_token").returncode == 0
    assert run("git", "ls-files", DOCKER / "secrets").stdout.split() == ["docker/secrets/.gitignore"]
    allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not [line for line in allowed if "secret" in line or line in {"!docker", "!.", "!.git"}]


def test_data_lie_in_named_volumes() -> None:
    declared = set(read(COMPOSE)["volumes"])
    used = {entry.split(":")[0] for service in SERVICES.values() for entry in service.get("volumes", [])}
    assert used == declared
    assert all(SERVICES[name]["volumes"] for name in ("postgres", "store", "mlflow"))


def test_the_object_store_of_ray_fits_into_shared_memory() -> None:
    for name in ("head", "worker"):
        (given,) = [word for word in SERVICES[name]["command"] if word.startswith("--object-store-memory=")]
        assert 2 * int(given.split("=")[1]) <= size(SERVICES[name]["shm_size"])


def test_the_commands_are_ones_that_flatsweep_knows() -> None:
    """Ray's are tried by the rehearsal; importing Ray's command line takes long."""
    lines = [service["command"] for service in OURS.values()]
    lines += [service["healthcheck"]["test"][1:] for service in OURS.values() if "test" in service["healthcheck"]]
    own = [words[1:] for words in lines if words[0] == "flatsweep"]
    assert [words[0] for words in own] == ["server", "server"]
    command = typer.main.get_command(app).commands["server"]  # type: ignore[attr-defined]
    for words in own:
        command.make_context("server", list(words[1:]))  # exits where an option is unknown


def test_services_call_each_other_by_names_and_ports_that_there_are() -> None:
    listening = {"mlflow": "--port=5000", "store": "-s3.port=8333", "head": "--port=6379"}
    for host, port in re.findall(
        r"(?:http://|@|--address=)(head|mlflow|store|postgres)(?::(\d+))?", json.dumps(SERVICES)
    ):
        if host != "postgres":
            assert listening[host].endswith(f"={port}") and listening[host] in SERVICES[host]["command"]
    assert "--allowed-host=mlflow" in SERVICES["mlflow"]["command"]


def test_gpu_workers_differ_by_image_and_devices_only() -> None:
    changed = services(GPU)
    assert set(changed) == {"worker"}
    worker = changed["worker"]
    assert set(worker) == {"image", "build", "deploy"}
    assert worker["image"] != SERVICES["worker"]["image"] and worker["build"]["args"] == {"VARIANT": "gpu"}
    assert {service["build"]["args"]["VARIANT"] for service in OURS.values()} == {"cpu"}
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


class Listener(http.server.BaseHTTPRequestHandler):
    """Takes one request and keeps its headers."""

    heard: dict[str, str]

    def do_GET(self) -> None:
        type(self).heard = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.skipif(program("curl") is None, reason="needs curl")
def test_the_check_of_the_store_signs_as_clients_do(tmp_path: Path) -> None:
    """Against botocore's signature of the same request."""
    run("sh", DOCKER / "make-secrets", tmp_path)
    (key,) = json.loads((tmp_path / "s3_identities.json").read_text())["identities"][0]["credentials"]
    kind, line = SERVICES["store"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        here = line.replace("http://127.0.0.1:8333/", url).replace("/run/secrets/", f"{tmp_path}/")
        done = run("sh", "-c", here)
        assert done.returncode == 0, done.stderr
    heard = Listener.heard
    signed = {
        name: heard[name] for name in re.findall(r"SignedHeaders=([\w;-]+)", heard["authorization"])[0].split(";")
    }
    request = AWSRequest("GET", url, headers=signed)
    request.context.update(timestamp=heard["x-amz-date"], payload_signing_enabled=True)
    signer = S3SigV4Auth(Credentials(key["accessKey"], key["secretKey"]), "s3", "us-east-1")
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert heard["authorization"].endswith(f"Signature={expected}")
    assert heard.get("x-amz-content-sha256", hashlib.sha256().hexdigest()) == hashlib.sha256().hexdigest()


def test_the_check_of_the_store_fails_without_one(tmp_path: Path) -> None:
    line = SERVICES["store"]["healthcheck"]["test"][1].replace(":8333/", ":9/").replace("/run/secrets/", f"{tmp_path}/")
    assert run("sh", "-c", line).returncode != 0
