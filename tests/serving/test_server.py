"""`flatsweep server` for real: on Postgres, with users; what it answers, what others can see of it, its end."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from werkzeug.security import generate_password_hash

from orchestrator.errors import UserError
from orchestrator.preflight import check
from orchestrator.serving.probe import server_problem
from orchestrator.serving.users import FORMER_DEFAULT
from orchestrator.sink import RunSink
from orchestrator.tracking import Store
from tests.e2e.sweeping import Place, environment, wait_for
from tests.postgres import NO_PROGRAMS, Postgres, private_postgres, programs
from tests.processes import command, family, listeners
from tests.serving.imitation import API, SAID
from workers.journal import Record
from workers.storage import Folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(programs() is None, reason=NO_PROGRAMS),
]

ADMIN, READER = "correct-horse-battery", "a-reader-s-password"
FLATSWEEP = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


@dataclass
class Served:
    """A server of ours and its database."""

    folder: Path
    database: Postgres
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def start(self, password: str = ADMIN) -> None:
        (self.folder / "word").write_text(password + "\n")
        words = ["server", "--folder", "kept", "--password-file", "word", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [*FLATSWEEP, *words], stdout=log, stderr=log, cwd=self.folder,
                env=environment(MLFLOW_BACKEND_STORE_URI=self.database.uri("mlflow")),
            )  # fmt: skip
        wait_for(lambda: self.ask("/health")[0] == 200 or self.process.poll() is not None, "the server", 200)
        assert self.process.poll() is None, self.log

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def ask(self, path: str, user: str = "", password: str = "", body: Any = None, **more: str) -> tuple[int, str, str]:
        """Status, kind and text of an answer; zeros where nobody answers. `more` are headers."""
        headers = {"Content-Type": "application/json"} | more
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            try:
                content = None if body is None else json.dumps(body)
                connection.request("POST" if content else "GET", path, content, headers)
                answer = connection.getresponse()
            except OSError:
                return 0, "", ""
            return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with private_postgres() as database:
        database.database("mlflow")
        server = Served(tmp_path_factory.mktemp("served"), database, free_port())
        server.start()
        made = server.ask(f"{API}/users/create", "admin", ADMIN, {"username": "reader", "password": READER})
        assert made[0] == 200, made
        yield server
        server.stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Any:
    def change(user: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    change("", "")
    return change


def test_it_answers_as_the_imitation_does(served: Served) -> None:
    path = f"{API}/experiments/search?max_results=1"
    found = {
        "unauthenticated": served.ask(path),
        "bad host": served.ask(path, Host="evil.example"),
        "no experiment": served.ask(f"{API}/experiments/get-by-name?experiment_name=nope", "reader", READER),
        "forbidden": served.ask(f"{API}/users/create", "reader", READER, {"username": "x", "password": READER}),
    }
    assert served.ask(path, "admin", "wrong") == found["unauthenticated"]
    for name, (status, kind, body) in found.items():
        said = SAID[name]
        assert (status, kind) == (said.status, said.kind), name
        if "json" in kind:
            assert json.loads(body) == json.loads(said.body)
        else:
            assert body == said.body


def test_what_a_look_says_and_that_it_writes_nothing(served: Served, as_user: Any) -> None:
    assert "wants a user and a password" in str(server_problem(served.uri))
    as_user("admin", "wrong")
    assert "does not accept user 'admin'" in str(server_problem(served.uri))
    as_user("admin", ADMIN)
    Store(served.uri, "admins", Path("none")).prepare()
    rows = counts(served)
    assert server_problem(served.uri, "admins") is None
    assert server_problem(served.uri, "still to be made") is None
    as_user("reader", READER)
    assert server_problem(served.uri, "still to be made") is None
    assert "does not let user 'reader' write here" in str(server_problem(served.uri, "admins"))
    assert counts(served) == rows


def counts(served: Served) -> list[int]:
    with contextlib.closing(psycopg.connect(served.database.uri("mlflow"))) as connection:
        cursor = connection.cursor()
        found = []
        for table in ("experiments", "runs", "tags", "experiment_tags", "metrics", "params"):
            cursor.execute(f"SELECT count(*) FROM {table}")
            found.append(cursor.fetchone()[0])
    return found


def test_recording_by_user_and_password(served: Served, as_user: Any, tmp_path: Path) -> None:
    place = Place(tmp_path, "with-users", uri=served.uri, tracking={"uri": served.uri})
    with pytest.raises(UserError, match="wants a user and a password"):
        check(place.sweep)
    as_user("reader", READER)
    check(place.sweep)
    store = Store.of(place.sweep)
    store.prepare()
    parent = store.open_parent(place.sweep, "text", "")
    trial = place.sweep.trials()[0]
    run_id = store.create_trial_run(trial, place.sweep.evaluation, "with-users", parent, "")
    folder = Folder(str(tmp_path / "trial"))
    large = os.urandom(20 * 2**20)  # more than a figure or a table ever is
    folder.write("large.bin", large)
    records = [Record("metric", "loss", value=0.5), Record("file", "large.bin", text="hash")]
    RunSink(served.uri, run_id, folder).send([*records, Record("state", "state", text="finished")])
    (run,) = store.trial_runs("with-users")
    assert (run.metrics, run.state, run.status) == ({"loss": 0.5}, "finished", "FINISHED")
    assert Path(store.client.download_artifacts(run_id, "large.bin", str(tmp_path))).read_bytes() == large
    assert list((served.folder / "kept" / "artifacts").rglob("large.bin"))
    as_user("reader", "wrong-password")
    with pytest.raises(UserError, match="cannot be used"):
        Store.of(place.sweep)


def test_a_submit_whose_address_holds_the_password_shows_it_nowhere(served: Served, tmp_path: Path) -> None:
    place = Place(tmp_path, "hidden", uri=served.uri, grid={"methods": ["standard"], "seeds": [0]})
    whole = f"http://reader:{READER}@127.0.0.1:{served.port}"
    done = place.run("submit", MLFLOW_TRACKING_URI=whole)
    assert done.returncode == 0, done.stderr
    shown = f"http://reader:***@127.0.0.1:{served.port}"
    assert f"recording 1 runs in {shown}" in done.stdout and f"store  {shown}" in done.stdout
    status = place.run("status", "--json", MLFLOW_TRACKING_URI=whole)
    assert json.loads(status.stdout)["counts"] == {"finished": 1}
    assert READER not in done.stdout + done.stderr + status.stdout + status.stderr
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert kept and [path for path in kept if READER.encode() in path.read_bytes()] == []
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_what_others_on_the_machine_can_see(served: Served) -> None:
    assert served.process is not None
    commands = [command(one) for one in family(served.process.pid)]
    assert len(commands) >= 3  # ours, MLflow's, its worker
    kept = served.folder / "kept"
    words = (ADMIN, READER, served.database.password, (kept / "secret_key").read_text())
    for word in words:
        assert [text for text in [*commands, served.log] if word in text] == []
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in kept.iterdir() if path.suffix in {".ini", ""}}
    assert (modes["secret_key"], modes["users.ini"]) == ("0o600", "0o600")
    assert oct(kept.stat().st_mode & 0o777) == "0o700"
    assert served.database.password not in (kept / "users.ini").read_text()


def test_it_listens_on_the_loopback_address_alone(served: Served) -> None:
    assert served.process is not None
    found = listeners(served.process.pid)
    assert [(one.address, one.port) for one in found] == [("127.0.0.1", served.port)]


def test_health_from_the_command_line(served: Served) -> None:
    def look(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*FLATSWEEP, "server", "--check", *words], capture_output=True, text=True, cwd=served.folder,
            env=environment(), timeout=100,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert look(served.uri, "--password-file", "word") == (0, f"the tracking server {served.uri} works\n")
    code, text = look(served.uri)
    assert code == 1 and "wants a user and a password" in text and len(text.splitlines()) == 1


def test_mlflows_former_default_password_is_replaced_at_the_next_start(served: Served) -> None:
    """Last: it stops the server."""
    path = f"{API}/experiments/search?max_results=1"
    assert served.process is not None
    everyone = family(served.process.pid)
    assert served.stop() == 0
    assert not (served.folder / "kept" / "users.ini").exists()
    assert [one for one in everyone if Path(f"/proc/{one}").exists()] == []
    with contextlib.closing(psycopg.connect(served.database.uri("mlflow"))) as connection, connection:
        change = "UPDATE users SET password_hash = %s WHERE username = 'admin'"
        connection.cursor().execute(change, (generate_password_hash(FORMER_DEFAULT),))
    served.start("another-good-password")
    assert served.ask(path, "admin", FORMER_DEFAULT)[0] == 401
    assert served.ask(path, "admin", ADMIN)[0] == 401
    assert served.ask(path, "admin", "another-good-password")[0] == 200
    assert served.ask(path, "reader", READER)[0] == 200
    assert served.stop(signal.SIGINT) == 0
