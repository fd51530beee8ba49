"""What a look at a tracking server says of each of its answers, in one sentence and before anything is started."""

import base64
import json
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.preflight import check
from orchestrator.serving import probe
from orchestrator.serving.health import health
from orchestrator.serving.passwords import ADMIN_PASSWORD
from orchestrator.serving.probe import server_problem
from orchestrator.spec.loading import load_sweep_file
from tests.serving.imitation import (
    BY_NAME,
    GOOD,
    MAKE_EXPERIMENT,
    MAKE_RUN,
    PAGE,
    SAID,
    SEARCH,
    Answer,
    imitation,
    nobody,
    silent,
)  # fmt: skip

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", ADMIN_PASSWORD)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # and afterwards as it was, whatever a test sets
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_good_server_is_not_written_to() -> None:
    with imitation() as server:
        assert server_problem(server.uri, "s") is None
        asked = server.asked
    assert [what for what, _, _ in asked] == [SEARCH, BY_NAME, MAKE_RUN]
    assert json.loads(asked[-1][2]) == {"experiment_id": "7", "start_time": "never"}  # no run can start then


def test_an_experiment_that_is_still_to_be_made() -> None:
    with imitation({BY_NAME: SAID["no experiment"]}) as server:
        assert server_problem(server.uri, "nope") is None
        assert [what for what, _, _ in server.asked][-1] == MAKE_EXPERIMENT
        assert json.loads(server.asked[-1][2]) == {}  # an experiment needs a name
    with imitation({BY_NAME: SAID["no experiment"], MAKE_EXPERIMENT: SAID["forbidden"]}) as server:
        assert "does not let" in str(server_problem(server.uri, "nope"))


DELETED = Answer.json(200, experiment={"experiment_id": "7", "name": "s", "lifecycle_stage": "deleted"})
BROKEN = Answer.json(500, error_code="INTERNAL_ERROR", message="the database is gone\nTraceback")
ANSWERS = {
    "no user": ({SEARCH: SAID["unauthenticated"]}, "wants a user and a password: set MLFLOW_T"),
    "bad host": ({SEARCH: SAID["bad host"]}, "refuses to be called by this name: start it with"),
    "read only": ({MAKE_RUN: SAID["forbidden"]}, "does not let whoever has these credentials write here"),
    "not readable": ({BY_NAME: SAID["forbidden"]}, "does not let"),
    "HTML": ({SEARCH: Answer(200, "text/html", "<html>router")}, "is no MLflow server"),
    "404": ({SEARCH: PAGE}, "is no MLflow server: it answers /api/2.0/mlflow with status 404"),
    "a list": ({SEARCH: Answer(200, "application/json", "[]")}, "is no MLflow server"),
    "other JSON": ({SEARCH: Answer.json(404, detail="Not Found")}, "and other JSON"),
    "broken": ({SEARCH: BROKEN}, "of its own: 500 INTERNAL_ERROR: the database is gone"),
    "deleted": ({BY_NAME: DELETED}, "experiment 's' was deleted in MLflow: restore it"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_one_sentence(case: str) -> None:
    changes, phrase = ANSWERS[case]
    with imitation(changes) as server:
        found = server_problem(server.uri, "s")
    assert found and phrase in found
    assert "\n" not in found and "Traceback" not in found and len(found) < 400


def test_with_credentials_of_mlflows_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Tr0ub4dor")
    with imitation() as server:
        assert server_problem(server.uri) is None
        scheme, _, text = server.asked[0][1].partition(" ")
        assert (scheme, base64.b64decode(text)) == ("Basic", b"ann:Tr0ub4dor")
    with imitation({SEARCH: SAID["unauthenticated"]}) as server:
        found = str(server_problem(server.uri))
        assert "does not accept user 'ann' with this password" in found and "Tr0ub4dor" not in found
    with imitation({MAKE_RUN: SAID["forbidden"]}) as server:
        assert "does not let user 'ann' write here" in str(server_problem(server.uri, "s"))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with imitation({SEARCH: SAID["unauthenticated"]}) as server:
        assert "does not accept this token" in str(server_problem(server.uri))
        assert server.asked[0][1] == "Bearer t0ken"


def test_with_a_file_of_credentials(tmp_path: Path) -> None:
    (tmp_path / "home" / ".mlflow").mkdir(parents=True)
    text = "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = Tr0ub4dor\n"
    (tmp_path / "home" / ".mlflow" / "credentials").write_text(text)
    with imitation() as server:
        assert server_problem(server.uri) is None
        assert base64.b64decode(server.asked[0][1].split()[1]) == b"ann:Tr0ub4dor"


def test_nobody_there() -> None:
    with nobody() as uri:
        assert server_problem(uri) == f"no answer from the tracking server {uri}: Connection refused"
    assert "no answer from the tracking server http://no.such.host.invalid:1: " in str(
        server_problem("http://no.such.host.invalid:1")
    )


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    with silent() as uri:
        assert server_problem(uri) == f"no answer from the tracking server {uri}: none within 1 s"


def test_all_questions_together_take_less_than_ten_seconds() -> None:
    assert probe.SECONDS < 9


def test_preflight_says_it_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.yaml"
    with imitation({MAKE_RUN: SAID["forbidden"]}) as server:
        grid = {"methods": ["at"], "seeds": [0]}
        path.write_text(json.dumps({"name": "s", "grid": grid, "tracking": {"uri": server.uri}}))
        with pytest.raises(UserError, match=r"^tracking: the tracking server http://127\S+ does not let"):
            check(load_sweep_file(path).sweep)
        server.answers |= GOOD
        check(load_sweep_file(path).sweep)
    assert list(tmp_path.iterdir()) == [path]


def test_health(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("correct-horse-battery\n")
    with imitation() as server:
        assert health(server.uri, "admin", tmp_path / "word") == (True, f"the tracking server {server.uri} works")
        assert base64.b64decode(server.asked[0][1].split()[1]) == b"admin:correct-horse-battery"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Tr0ub4dor")
        assert health(server.uri, "admin", tmp_path / "word")[0]
        assert base64.b64decode(server.asked[1][1].split()[1]) == b"ann:Tr0ub4dor"
    with nobody() as uri:
        assert health(uri, "admin", None) == (False, f"no answer from the tracking server {uri}: Connection refused")
    for uri, reason in (("http://ann:Tr0ub4dor@host", "has a password in it"), ("mlflow.db", "address of a server")):
        with pytest.raises(UserError, match=reason):
            health(uri, "admin", None)
