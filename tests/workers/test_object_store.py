"""A folder on a real S3 server behaves as a local one does, and a trial in it is killed and goes on."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from processes import Child
from s3_server import S3Server
from test_trial import TRIAL

from workers import layout, leases
from workers.failures import ErrorClass, StorageError, classify
from workers.journal import Journal, Record, content
from workers.leases import Lease
from workers.log import Log
from workers.storage import Folder
from workers.trial import run_trial

HOLDS_THE_LOCK = """
import sys, time
from workers import leases
from workers.storage import Folder
leases.LEASE_SECONDS, leases.HOLDER_SECONDS, leases.RENEW_SECONDS = 3.5, 2.0, 0.5
folder = Folder(sys.argv[1])
with folder.lock(1):
    print("held")
    for line in sys.stdin:
        try:
            folder.write("file", line.encode())
            print("written")
        except Exception as error:
            print(type(error).__name__)
"""

TRAINS_AND_HANGS = """
import sys, time
from test_trial import TRIAL
from workers.storage import Folder
from workers.training import Progress
from workers.trial import trial_steps
for step in trial_steps(TRIAL, None, Folder(sys.argv[1])):
    if isinstance(step, Progress) and (step.epoch, step.batch) == (1, 2):
        print("in mid-epoch")
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for key, text in server.environment.items():
            patch.setenv(key, text)
        with fresh_clients():
            yield server


@contextlib.contextmanager
def fresh_clients() -> Iterator[None]:
    """Clients that read the environment anew: fsspec keeps one for each address."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.bucket()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3.5)
    monkeypatch.setattr(leases, "HOLDER_SECONDS", 2.0)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.5)


NAMES = st.sampled_from(["a", "b", "c.json", "deep/x", "deep/er/y", "epoch-000001.pt", "a b"])
CONTENT = st.binary(max_size=40)


class TheSame(RuleBasedStateMachine):
    """Does the same to two folders, one local and one on S3, and compares whatever can be seen of them."""

    places: tuple[Path, str]
    count = 0

    @initialize()
    def begin(self) -> None:
        TheSame.count += 1
        path, bucket = self.places
        self.local = Folder(f"{path}/{self.count}") / "trial"
        self.there = Folder(f"{bucket}/{self.count}") / "trial"
        self.logs = Log(self.local, "log"), Log(self.there, "log")
        for log in self.logs:
            log.read()

    def both(self, act: object) -> None:
        outcomes = []
        for folder in (self.local, self.there):
            try:
                outcomes.append(act(folder))  # type: ignore[operator]
            except FileNotFoundError:
                outcomes.append("missing")
        assert outcomes[0] == outcomes[1]

    @rule(name=NAMES, content=CONTENT)
    def write(self, name: str, content: bytes) -> None:
        self.both(lambda folder: folder.write(name, content))

    @rule(name=NAMES, content=CONTENT)
    def create(self, name: str, content: bytes) -> None:
        self.both(lambda folder: folder.create(name, content))

    @rule(name=st.one_of(NAMES, st.just("deep")))
    def delete(self, name: str) -> None:
        self.both(lambda folder: folder.delete(name))

    @rule(names=st.lists(NAMES, max_size=4))
    def delete_files(self, names: list[str]) -> None:
        self.both(lambda folder: folder.delete_files(names))

    @rule(name=st.sampled_from(["a", "deep", "b"]), new=st.sampled_from(["moved", "moved-2"]))
    def rename(self, name: str, new: str) -> None:
        if not self.local.exists(new):
            self.both(lambda folder: folder.rename(name, new))

    @rule(content=CONTENT)
    def add_to_log(self, content: bytes) -> None:
        for log in self.logs:
            log.append(content + b"\n")

    @rule()
    def pack(self) -> None:
        for log in self.logs:
            log.pack()

    @rule()
    def open_log_again(self) -> None:
        self.logs = Log(self.local, "log"), Log(self.there, "log")
        assert self.logs[0].read() == self.logs[1].read()

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        self.both(lambda folder: folder.exists(name))
        self.both(lambda folder: folder.read(name))
        self.both(lambda folder: folder.read_if_there(name))
        self.both(lambda folder: folder.read_all([name, name]))

    def teardown(self) -> None:
        if hasattr(self, "local"):
            # their logs differ, and an object store has no empty folders
            self.both(lambda folder: {path: size for path, size in folder.files().items() if path[:3] != "log"})
            self.both(lambda folder: {name for name in folder.names() if (folder / name).files()} - {"log"})
            self.both(lambda folder: Log(folder, "log").read())


def test_a_folder_on_s3_is_like_a_local_one(tmp_path: Path, bucket: str) -> None:
    TheSame.places, TheSame.count = (tmp_path, bucket), 0
    run_state_machine_as_test(
        TheSame,
        settings=settings(max_examples=8, stateful_step_count=12, deadline=None,
                          suppress_health_check=[HealthCheck.too_slow]),
    )  # fmt: skip
    assert TheSame.count >= 8


def test_names_that_begin_alike_are_kept_apart(bucket: str) -> None:
    folder = Folder(bucket)
    (folder / "trial").write("file", b"2")
    (folder / "trial-2").write("file", b"3")
    folder.rename("trial", "moved")
    assert folder.names() == ["moved", "trial-2"]
    folder.delete("trial")
    assert folder.files() == {"moved/file": 1, "trial-2/file": 1}


@pytest.mark.slow
def test_large_files_arrive_whole(bucket: str) -> None:
    large = os.urandom(1 << 20) * 101  # above 100 MB the client sends parts
    (Folder(bucket) / "trial").write("file", large)
    assert (Folder(bucket) / "trial").read("file") == large


def test_two_holders_exclude_each_other_until_the_lease_of_the_dead_one_has_run_out(
    bucket: str, short_leases: None
) -> None:
    folder = Folder(f"{bucket}/trial")
    with Child(HOLDS_THE_LOCK, folder.url) as child:
        assert child.line() == "held" and folder.is_locked()
        with pytest.raises(StorageError, match=f"process {child.process.pid} on") as caught, folder.lock(0.5):
            pytest.fail("two holders")
        assert classify(caught.value) is ErrorClass.STORAGE_UNAVAILABLE
        with pytest.raises(StorageError), folder.lock(60, unless_alive=True):  # it renews: no need to wait for long
            pytest.fail("two holders")
        child.kill()
        with pytest.raises(StorageError), folder.lock(0.5):  # it may be alive, for all that can be known
            pytest.fail("two holders")
        with folder.lock(20):
            assert folder.is_locked()
            with pytest.raises(StorageError), Folder(folder.url).lock(0.1):
                pytest.fail("two holders in one process")
    assert not folder.is_locked() and folder.names() == []
    with folder.lock(0.1):  # it was let go of: there is nothing to wait for
        pass


def test_a_holder_that_was_away_for_too_long_writes_no_more(bucket: str, short_leases: None) -> None:
    folder = Folder(f"{bucket}/trial")
    with Child(HOLDS_THE_LOCK, folder.url) as child:
        assert child.line() == "held"
        assert child.process.stdin is not None
        child.process.stdin.write("first\n")
        child.process.stdin.flush()
        assert child.line() == "written"
        child.process.send_signal(19)  # SIGSTOP: as a machine that hangs, or is cut off
        with folder.lock(30):
            child.process.stdin.write("second\n")
            child.process.stdin.flush()
            child.process.send_signal(18)
            assert child.line() == "StorageError"
            assert folder.read("file") == b"first\n"
            folder.write("file", b"ours")
        assert folder.read("file") == b"ours"


@pytest.mark.slow
def test_of_many_that_take_over_one_succeeds(bucket: str, short_leases: None) -> None:
    """A dozen at once, again and again: a counter in a file, which each reads and writes, counts all of them."""
    from concurrent.futures import ThreadPoolExecutor

    url = f"{bucket}/trial"
    Folder(url).write("count", b"0")
    dead = Lease(Folder(f"{url}/.lock"), of=url)
    dead._folder.create("00000001", dead._content())

    def count(_number: int) -> None:
        folder = Folder(url)
        with folder.lock(60):
            folder.write("count", str(int(folder.read("count")) + 1).encode())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(12)))
    assert Folder(url).read("count") == b"12"
    assert len(Folder(f"{url}/.lock").names()) <= 2  # old leases are removed


def test_of_two_writers_of_a_journal_the_later_one_is_refused(bucket: str) -> None:
    folder = Folder(f"{bucket}/trial")
    first, second = Journal(folder), Journal(folder)
    first.add([Record("metric", "a", value=1.0, step=1)])
    with pytest.raises(StorageError, match="another process"):
        second.add([Record("metric", "a", value=2.0, step=1)])
    again = Journal(folder)
    again.add([Record("metric", "a", value=3.0, step=2)])
    assert Journal(folder).values("a") == [1.0, 3.0]


def test_packing_that_was_interrupted_loses_and_doubles_nothing(bucket: str) -> None:
    folder = Folder(f"{bucket}/trial")
    journal = Journal(folder)
    for step in range(5):
        journal.add([Record("metric", "a", value=float(step), step=step)])
    whole, segments = content(folder), folder / "journal.jsonl"
    left = {name: segments.read(name) for name in segments.names()}
    journal.pack()
    assert content(folder) == whole and len(segments.names()) == 1
    for name in sorted(left)[2:]:  # those that it had not come to delete
        segments.write(name, left[name])
    assert content(folder) == whole
    again = Journal(folder)
    again.add([Record("metric", "a", value=9.0, step=9)])
    again.pack()
    assert content(folder).startswith(whole) and Journal(folder).values("a") == [0.0, 1.0, 2.0, 3.0, 4.0, 9.0]


def test_a_move_that_was_interrupted_is_gone_on_with(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(f"{bucket}/sweep")
    trial = folder / "trial"
    for name in ("a", "b", "checkpoints/c", "d"):
        trial.write(name, name.encode())
    with trial.lock(1):
        pass
    with monkeypatch.context() as broken:
        copied: list[str] = []

        def cut(path: str, new: str) -> None:
            if len(copied) == 2:
                raise ConnectionError("cut off")
            copied.append(path)
            folder._fs.copy(path, new)

        broken.setattr(folder._fs, "cp_file", cut)
        with pytest.raises(StorageError, match="cut off"):
            folder.rename("trial", "trial.old-1")
    assert trial.files() and (folder / "trial.old-1").files()
    folder.finish_moves()
    assert folder.files() == {f"trial.old-1/{name}": len(name) for name in ("a", "b", "checkpoints/c", "d")}
    assert Folder(f"{bucket}/sweep/trial/.lock").names() == ["00000001"]  # its numbers go on


def test_a_killed_trial_goes_on_with_identical_weights(bucket: str, tmp_path: Path, short_leases: None) -> None:
    folder = Folder(f"{bucket}/trial")
    with Child(TRAINS_AND_HANGS, folder.url) as child:
        assert child.line() == "in mid-epoch"
        child.kill()
    run_trial(TRIAL, None, folder)
    run_trial(TRIAL, None, Folder(str(tmp_path)))
    tags = [
        {record.key: record.text for record in Journal(place).records if record.kind == "tag"}
        for place in (folder, Folder(str(tmp_path)))
    ]
    assert tags[0]["weights"] == tags[1]["weights"]
    assert [tag["attempt"] for tag in tags] == ["2", "1"]
    epochs = [record.step for record in Journal(folder).records if record.key == "train/loss"]
    assert epochs == [1, 2, 3]
    assert json.loads(folder.read(layout.TRIAL))["seed"] == TRIAL.seed


def test_a_damaged_checkpoint_is_passed_over(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    from workers import checkpoints

    folder = Folder(f"{bucket}/checkpoints")
    checkpoints.save(folder, 1, 0, {"epoch": 1})
    name = checkpoints.save(folder, 2, 0, {"epoch": 2})
    folder.write(name, folder.read(name)[:-20])
    assert checkpoints.newest(folder, "cpu") == {"epoch": 1}  # type: ignore[arg-type]
    assert "damaged" in caplog.text


@pytest.mark.slow
def test_a_server_that_is_gone_is_a_passing_failure_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as gone:
        pass
    for key, text in gone.environment.items():
        monkeypatch.setenv(key, text)
    with fresh_clients(), pytest.raises(StorageError, match=gone.url) as caught:
        Folder("s3://bucket/x").read("a")
    assert classify(caught.value) is ErrorClass.STORAGE_UNAVAILABLE
    assert gone.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_without_credentials_it_says_so(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    for key in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(key, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with fresh_clients(), pytest.raises(StorageError, match="credentials"):
        Folder("s3://bucket/x").write("a", b"")


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StorageError, match=r"pip install 'flatsweep\[s3\]'"):
        Folder("s3://bucket/x")


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a\0b"])
def test_no_name_leads_out_of_its_folder(name: str, bucket: str, tmp_path: Path) -> None:
    for folder in (Folder(f"{bucket}/trial"), Folder(str(tmp_path / "trial"))):
        for act in (folder.read, folder.exists, folder.delete, folder.__truediv__, folder.modified):
            with pytest.raises(ValueError, match="no name"):
                act(name)
        with pytest.raises(ValueError, match="no name"):
            folder.write(name, b"")
        with pytest.raises(ValueError, match="no name"):
            folder.rename("a", name)
    assert not list(tmp_path.iterdir()) and not Folder(bucket).files()


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        Folder(str(tmp_path)).write("x" * 5000, b"")
