"""A storage elsewhere: what is refused before anything starts, sweeps by name, and where this machine's files go."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3_server import S3Server

from orchestrator.driver import driver_lock, has_driver
from orchestrator.errors import UserError
from orchestrator.local_folder import local_folder, to_storage
from orchestrator.preflight import check
from orchestrator.recorded import Places, open_sweep, remember
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.places import is_address, located_storage, storage_problem
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri
from workers.storage import Folder


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@contextlib.contextmanager
def serving(server: S3Server, patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with server:
        for key, text in server.environment.items():
            patch.setenv(key, text)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield server
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def memory() -> str:
    """A storage of fsspec's own, in this process, empty."""
    return f"memory://{uuid.uuid4().hex}/runs"


def a_sweep(storage: str, **changes: Any) -> Sweep:
    return Sweep.model_validate({"name": "x", "storage": storage, "grid": {"methods": ["at"], "seeds": [0]}} | changes)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("", "is a folder"),
        ("a\0b", "is a folder"),
        ("x" * 501, "too long"),
        ("s3://", "names a bucket"),
        ("s3:///x", "names a bucket"),
        ("://x", "one scheme"),
        ("simplecache::s3://b/x", "one scheme"),
        ("s3://b/../x", "no empty parts"),
        ("s3://b//x", "no empty parts"),
        ("s3://b/./x", "no empty parts"),
        ("s3://key:topsecret@b/x", "without user"),
        ("sftp://user:topsecret@b/x", "without user"),
        ("abfs://b/x?sig=topsecret", "without user"),
        ("s3://b/x#topsecret", "without user"),
        ("file:///tmp", "plain path"),
        ("s3://[b/x", "no address"),
    ],
)
def test_what_is_no_storage_is_refused_without_repeating_it(storage: str, words: str, tmp_path: Path) -> None:
    problem = storage_problem(storage)
    assert problem is not None and words in problem and "topsecret" not in problem
    with pytest.raises(UserError, match="--storage") as caught:
        open_sweep("x", Places(storage or "\t"))
    assert "topsecret" not in str(caught.value)
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\nstorage: '{storage}'\ngrid: {{methods: [at], seeds: [0]}}\n".replace("\0", ""))
    if "topsecret" in storage:
        with pytest.raises(UserError) as caught:
            load_sweep_file(file)
        assert "topsecret" not in str(caught.value) and "credentials come from the environment" in str(caught.value)


@pytest.mark.parametrize(
    "storage", ["s3://bucket", "s3://bucket/a/b/", "gs://bucket/x", "runs", "../runs", "~/runs", "/a"]
)
def test_what_is_one_is_taken(storage: str, tmp_path: Path) -> None:
    assert storage_problem(storage) is None
    located = located_storage(storage, tmp_path)
    assert located == storage.rstrip("/") if is_address(storage) else Path(located).is_absolute()


@pytest.mark.parametrize("name", ["../x", "..", ".", "/etc", "a/b", "x\0", "x" * 300, "s3://b/x", ""])
def test_no_name_leads_out_of_the_storage(name: str, memory: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "runs" / "x").mkdir(parents=True)
    for storage in (memory, str(tmp_path / "runs")):
        with pytest.raises(UserError) as caught:
            open_sweep(name, Places(storage))
        assert "damaged" not in str(caught.value)  # that would say that something was read


def test_a_sweep_elsewhere_is_known_by_its_name(memory: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"name: x\nstorage: {memory}\ngrid: {{methods: [at], seeds: [0]}}\n")
    loaded = load_sweep_file(file)
    remember(loaded)
    found = open_sweep("x", Places(memory))
    assert found.sweep == loaded.sweep and found.text == loaded.text and found.words == f"x --storage {memory}"
    with pytest.raises(UserError, match="did you mean 'x'"):
        open_sweep("xx", Places(memory))


def test_one_driver_elsewhere(memory: str) -> None:
    sweep = a_sweep(memory)
    assert not has_driver(sweep)
    with driver_lock(sweep):
        assert has_driver(sweep)
    assert not has_driver(sweep)


def test_files_of_this_machine_and_their_copies(memory: str, tmp_path: Path) -> None:
    sweep = a_sweep(memory)
    here = local_folder(sweep)
    assert here.is_relative_to(tmp_path / "cache") and here != local_folder(a_sweep(memory + "2"))
    here.mkdir(parents=True)
    (here / "table.csv").write_bytes(b"1,2")
    to_storage(sweep, [here / "table.csv"], "analysis")
    assert Folder(f"{memory}/x/analysis").read("table.csv") == b"1,2"
    assert local_folder(a_sweep(str(tmp_path))) == tmp_path / "x"


def test_sqlite_cannot_lie_elsewhere(memory: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SQLite cannot lie in memory://"):
        tracking_uri(a_sweep(memory))
    store = Store.of(a_sweep(memory, tracking={"uri": f"sqlite:///{tmp_path}/m.db", "experiment": "../../out"}))
    store.prepare()
    place = store.client.get_experiment(store.experiment_id).artifact_location
    assert place.startswith((tmp_path / "artifacts").as_uri()) and ".." not in place.split("/")


def test_what_a_storage_lacks_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracking = {"uri": f"sqlite:///{tmp_path}/m.db"}
    with serving(S3Server(), monkeypatch) as server:
        bucket = server.bucket()
        check(a_sweep(f"{bucket}/runs", tracking=tracking))
        assert Folder(bucket).files() == {}  # the probe is gone again
        with pytest.raises(UserError, match=r"s3://no-such-bucket/runs.*does not exist"):
            check(a_sweep("s3://no-such-bucket/runs", tracking=tracking))
        with pytest.raises(UserError, match="storage: nothing://"):
            check(a_sweep("nothing://bucket/runs", tracking=tracking))
    with serving(S3Server(conditional=False), monkeypatch) as server:
        bucket = server.bucket()
        with pytest.raises(UserError, match="replaces a file where it is asked not to"):
            check(a_sweep(f"{bucket}/runs", tracking=tracking))
        assert Folder(bucket).files() == {}
