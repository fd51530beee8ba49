"""What travels to a cluster: requests, events, and which code may serve whom."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator.cluster import job
from orchestrator.cluster.request import FILE, Options, Request, event, mismatch, parse_event
from orchestrator.spec.loading import load_sweep_file
from orchestrator.versions import Code, own_code

TEXT = "name: x\nstorage: here\ngrid:\n  methods: [at, {name: trades, beta: 3}]\n  seeds: [0, 1]\n"
LINES = st.text(st.characters(exclude_characters="\n\r"), max_size=40)


@pytest.fixture
def request_for_cluster(tmp_path: Path) -> Request:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT)
    return Request.of("rerun", load_sweep_file(path), Options(trials=("ab", "cd"), from_scratch=True))


def test_a_request_arrives_as_it_was_sent(request_for_cluster: Request, tmp_path: Path) -> None:
    request_for_cluster.write(tmp_path)
    arrived = Request.read(tmp_path)
    assert arrived == request_for_cluster
    sent, file = request_for_cluster.file(), arrived.file()
    assert [trial.trial_id for trial in file.sweep.trials()] == [trial.trial_id for trial in sent.sweep.trials()]
    assert (file.text, file.commit) == (TEXT, sent.commit)
    assert Path(file.sweep.storage).is_absolute()


def test_a_request_of_another_version_is_refused_in_words(
    request_for_cluster: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = json.loads(request_for_cluster.model_dump_json())
    (tmp_path / FILE).write_text(json.dumps(data | {"a_new_wish": 1}))
    assert job.main() == 2
    said = parse_event(capsys.readouterr().out.strip())
    assert said is not None
    assert "does not understand this machine's request" in said["message"]


def test_other_code_is_refused_before_anything_is_read(
    request_for_cluster: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = Code(version="0.0.9", digest="0" * 12, commit="abcdef0123456789")
    request_for_cluster.model_copy(update={"code": other}).write(tmp_path)
    assert job.main() == 2
    said = parse_event(capsys.readouterr().out.strip())
    assert said is not None
    assert f"has flatsweep {own_code()}, this machine 0.0.9 (code 000000000000, commit abcdef0123)" in said["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "s.yaml"]


def test_only_the_content_of_the_code_counts() -> None:
    here = own_code()
    assert mismatch(here, here.model_copy(update={"commit": "1", "version": "9"}), "there") is None
    assert mismatch(here, here.model_copy(update={"digest": "1"}), "there")


def test_the_digest_is_of_the_files(tmp_path: Path) -> None:
    root = Path(orchestrator.__file__).parent.parent
    for package in ("orchestrator", "workers"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    digests = []
    for change in (None, ("orchestrator/COMMIT", "0123abc\n"), ("workers/attacks.py", "\n")):
        if change:
            with (tmp_path / change[0]).open("a") as file:
                file.write(change[1])
        words = [sys.executable, "-c", "from orchestrator.versions import own_code as c; print(c().digest, c().commit)"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        digests.append(done.stdout.split())
    assert digests[0] == [own_code().digest]
    assert digests[1] == [own_code().digest, "0123abc"]
    assert digests[2][0] != own_code().digest


@given(st.sampled_from(["started", "refused"]), LINES)
def test_events_survive_a_log(kind: str, text: str) -> None:
    line = event(kind, message=text)
    assert "\n" not in line
    assert parse_event(line) == {"event": kind, "message": text}


@given(LINES)
def test_what_people_read_is_no_event(line: str) -> None:
    assert parse_event(line) is None
    assert parse_event("@flatsweep " + line) is None
