"""A client and clusters that are not there; one that is there is met in tests/e2e/test_hosts_apart.py."""

import zipfile
from pathlib import Path

import pytest
from hosts import free_port

from orchestrator.cli.running import carry_out_where
from orchestrator.cluster.client import Cluster, _unpack, is_cluster
from orchestrator.cluster.request import Options, Request
from orchestrator.errors import UserError
from orchestrator.spec.loading import load_sweep_file


@pytest.fixture
def wanted(tmp_path: Path) -> Request:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\ngrid:\n  methods: [at]\n  seeds: [0]\n")
    return Request.of("submit", load_sweep_file(path), Options())


def test_which_addresses_are_a_clusters() -> None:
    assert is_cluster("http://head:8265")
    assert is_cluster("https://head")
    assert not any(map(is_cluster, (None, "", "local", "auto", "head:6379", "ray://head:10001")))


def test_nobody_there_is_one_sentence() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no answer from Ray at {address}"):
        Cluster(address)
    with pytest.raises(UserError, match="no answer from Ray"):
        Cluster("http://127.0.0.1:70000")


def test_a_store_in_a_file_cannot_serve_a_cluster(wanted: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="every node must reach the store"):
        carry_out_where(wanted, f"http://127.0.0.1:{free_port()}", detach=False, wheel=None)


@pytest.mark.parametrize("address", [None, "local", "10.0.0.5:6379"])
def test_options_for_clusters_are_refused_elsewhere(
    wanted: Request, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="--detach is for a sweep on a cluster"):
        carry_out_where(wanted, address, detach=True, wheel=None)
    with pytest.raises(UserError, match="--wheel is for a sweep on a cluster"):
        carry_out_where(wanted, address, detach=False, wheel=Path("x.whl"))


def test_only_a_wheel_of_flatsweep_is_sent(tmp_path: Path) -> None:
    target, wheel = tmp_path / "target", tmp_path / "a.whl"
    with pytest.raises(UserError, match="cannot be read as a wheel"):
        _unpack(wheel, target)
    wheel.write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be read as a wheel"):
        _unpack(wheel, target)
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("another/__init__.py", "")
    with pytest.raises(UserError, match="not a wheel of flatsweep"):
        _unpack(wheel, target)
    assert not target.exists()
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("orchestrator/cluster/job.py", "here")
    _unpack(wheel, target)
    assert (target / "orchestrator/cluster/job.py").read_text() == "here"
