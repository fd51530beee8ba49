"""The guides' manifests against the schemas and linters of those who are to read them."""

import copy
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml
from kuberay import RayCluster, RayJob
from pydantic import ValidationError

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides"
BIN = Path(sys.executable).parent
MANIFESTS = sorted(GUIDES.rglob("*.yaml"))
KUBERNETES = [path for path in MANIFESTS if path.parent.name == "kuberay"]
SCRIPTS = sorted(GUIDES.rglob("*.sbatch"))
AWS = GUIDES / "cloud/aws.yaml"


def by_path(path: Path) -> str:
    return str(path.relative_to(GUIDES))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def check(command: list[str], text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=60)


def lint(words: list[str], text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return check([sys.executable, "-m", "yamllint", "--strict", "--config-file", ".yamllint", *words], text)


def test_yaml_is_tidy() -> None:
    done = lint(list(map(str, MANIFESTS)))
    assert done.returncode == 0, done.stdout
    assert "duplication" in lint(["-"], "a: 1\na: 2\n").stdout


# Slurm


@pytest.mark.parametrize("script", SCRIPTS, ids=by_path)
def test_scripts_are_sound(script: Path) -> None:
    for command in (["bash", "-n", str(script)], [str(BIN / "shellcheck"), str(script)]):
        done = check(command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "SC2086" in check([str(BIN / "shellcheck"), "-"], "#!/bin/bash\ncat $1\n").stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=by_path)
def test_a_job_is_told_in_time_and_may_be_queued_again(script: Path) -> None:
    lines = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    options = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert options["signal"].startswith("B:USR1@")
    assert {"requeue", "exclusive", "time", "nodes", "open-mode"} <= options.keys()
    assert "array" not in options


# Kubernetes


def pod_problem(template: dict[str, Any]) -> str | None:
    """What Kubernetes' own schema says against a pod template."""
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
    return kubernetes_problem({**pod, "metadata": {"name": "pod", **pod.get("metadata", {})}})


def kubernetes_problem(manifest: dict[str, Any]) -> str | None:
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return None


def clusters(path: Path) -> list[RayCluster]:
    """What is a Ray cluster in a manifest, everything in it checked."""
    found = []
    for manifest in documents(path):
        if manifest["apiVersion"] != "ray.io/v1":
            assert kubernetes_problem(manifest) is None
            continue
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert manifest["metadata"].keys() <= {"name", "namespace", "labels", "annotations"}
        kind = {"RayJob": RayJob, "RayCluster": RayCluster}[manifest["kind"]]
        spec = kind.model_validate(manifest["spec"])
        found.append(spec.rayClusterSpec if isinstance(spec, RayJob) else spec)
    return found


@pytest.mark.parametrize("path", KUBERNETES, ids=by_path)
def test_what_kuberay_and_kubernetes_accept(path: Path) -> None:
    for cluster in clusters(path):
        for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
            assert pod_problem(group.template) is None
            spec = group.template["spec"]
            mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_parts_of_the_kubernetes_guide_fit_together() -> None:
    made = {(manifest["kind"], manifest["metadata"]["name"]) for path in KUBERNETES for manifest in documents(path)}
    claims, images, secrets = set(), set(), set()
    page = (GUIDES / "kuberay.md").read_text()
    for cluster in (cluster for path in KUBERNETES for cluster in clusters(path)):
        assert cluster.rayVersion == ray.__version__
        assert cluster.authOptions
        secrets.add(cluster.authOptions.secretName)
        for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
            spec = group.template["spec"]
            (container,) = spec["containers"]
            images.add(container["image"])
            secrets |= {source["secretRef"]["name"] for source in container["envFrom"]}
            claims |= {
                volume["persistentVolumeClaim"]["claimName"]
                for volume in spec["volumes"]
                if "persistentVolumeClaim" in volume
            }
    assert {("PersistentVolumeClaim", name) for name in claims} <= made
    assert images == {f"registry.example.com/flatsweep:{version('flatsweep')}"}
    for name in secrets:
        assert f"kubectl create secret generic {name} " in page
    assert "kubectl create configmap flatsweep-sweep " in page


def test_mistakes_in_kubernetes_manifests_are_seen() -> None:
    (job,) = documents(GUIDES / "kuberay/sweep.yaml")
    spec = job["spec"]
    for wrong in (
        {"submissionMode": "K8sMode"},
        {"shutdownAfterJobFinishes": False},
        {"entryPoint": "x"},
        {"backoffLimit": "2"},
        {"rayClusterSpec": {**spec["rayClusterSpec"], "rayVersion": "2.51.0"}},
    ):
        with pytest.raises(ValidationError):
            RayJob.model_validate({**spec, **wrong})
    template = spec["rayClusterSpec"]["headGroupSpec"]["template"]
    assert pod_problem({"spec": {**template["spec"], "restartpolicy": "Never"}})
    assert pod_problem({"spec": {**template["spec"], "containers": [{"image": "x"}]}})


# VMs


def launcher_problem(config: dict[str, Any]) -> str | None:
    """What Ray's cluster launcher says against a configuration, after it has filled in its defaults."""
    from jsonschema import ValidationError as SchemaError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (SchemaError, ValueError) as error:
        return str(error)
    return None


def test_what_rays_launcher_accepts() -> None:
    (config,) = documents(AWS)
    assert launcher_problem(config) is None
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind["min_workers"] >= 1 for name, kind in types.items() if name != config["head_node_type"])
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    for wrong in ({"max_workers": 0}, {"head_node_type": "none"}, {"idle_timeout": 3}, {"setup_commands": [3]}):
        assert launcher_problem({**config, **wrong}), wrong


def test_what_ec2_accepts() -> None:
    """By the parameters of RunInstances, as Ray's node provider gives them."""
    loaders = pytest.importorskip("botocore.loaders", reason="comes with the extra s3")
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    shape = ServiceModel(loaders.Loader().load_service_model("ec2", "service-2")).operation_model("RunInstances")
    (config,) = documents(AWS)
    for kind in config["available_node_types"].values():
        given = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(given, shape.input_shape).has_errors()
        wrong = {**given, "InstanceMarketOption": {}}
        assert ParamValidator().validate(wrong, shape.input_shape).has_errors()
    assert json.dumps(config).count("ami-00000000000000000") == 2  # nobody's: the guide says how to find one's own
