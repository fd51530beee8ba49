"""What a server is started with: passwords, names, files; and what it refuses before anything is started."""

import configparser
import contextlib
import socket
import sqlite3
import stat
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.preflight import check
from orchestrator.serving import server
from orchestrator.serving.database import schema_problem
from orchestrator.serving.hosts import allowed_hosts, check_free, is_loopback
from orchestrator.serving.passwords import ADMIN_PASSWORD, admin_password, read_password, weakness
from orchestrator.serving.server import DATABASE, Settings, database_uri, kept_key, users_ini
from orchestrator.spec.loading import load_sweep_file

GOOD = "correct-horse-battery"


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ADMIN_PASSWORD, DATABASE):
        monkeypatch.delenv(name, raising=False)


WEAK = ["", "short", "password", "password1234", "Password123456!", "P@ssw0rd123456", "a" * 30, "adminadmin12"]
WEAK += ["changeme-1234567", "abababababab", "12345678901"]


@pytest.mark.parametrize("word", WEAK)
def test_passwords_that_are_tried_first(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(word + "\n")
    with pytest.raises(UserError, match="file"):
        admin_password(tmp_path / "file")
    monkeypatch.setenv(ADMIN_PASSWORD, word)
    with pytest.raises(UserError, match=ADMIN_PASSWORD):
        admin_password(None)


@pytest.mark.parametrize("word", [GOOD, "passwords are not enough", "Xk3!fe9-Qz2L", "x y z w v 1 2 3", "12 Tage Regen"])
def test_good_passwords(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weakness(word) is None
    monkeypatch.setenv(ADMIN_PASSWORD, word)
    assert admin_password(None) == word
    (tmp_path / "file").write_text(GOOD + "\n")
    assert admin_password(tmp_path / "file") == GOOD  # the file goes first


def test_no_default_password() -> None:
    with pytest.raises(UserError, match="has no default: --password-file FILE, or set MLFLOW_AUTH_ADMIN_PASSWORD"):
        admin_password(None)


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe"])
def test_files_that_hold_no_password(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="file"):
        read_password(tmp_path / "file")
    with pytest.raises(UserError, match="No such file"):
        read_password(tmp_path / "none")


def answers(host: str, patterns: list[str]) -> bool:
    """As MLflow 3.17 decides (mlflow.server.security_utils.is_allowed_host_header)."""
    return any(fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns)


@pytest.mark.parametrize(
    ("host", "names", "good", "bad"),
    [
        ("127.0.0.1", [], ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000"], ["evil.org", "10.0.0.5:5000"]),
        ("10.0.0.5", [], ["10.0.0.5", "10.0.0.5:5000", "localhost:5000"], ["10.0.0.6", "evil.org:5000"]),
        ("0.0.0.0", ["mlflow", "*.lab.org"], ["mlflow:5000", "a.lab.org", "a.lab.org:1"], ["mlflow.evil", "lab.org"]),
        ("fd00::1", [], ["[fd00::1]:5000", "[fd00::1]"], ["[fd00::2]:5000"]),
    ],
)
def test_names_that_the_server_answers_to(host: str, names: list[str], good: list[str], bad: list[str]) -> None:
    patterns = allowed_hosts(host, names)
    assert [name for name in good if not answers(name, patterns)] == []
    assert [name for name in bad if answers(name, patterns)] == []
    assert "*" not in patterns and not any(fnmatch("evil", pattern) for pattern in patterns)


@pytest.mark.parametrize("name", ["*", "*.*", "", "a,b", "a b", "http://x", "u@h"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="--allowed-host"):
        allowed_hosts("127.0.0.1", [name])


def test_beyond_loopback_only_by_name() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match="--allowed-host"):
            allowed_hosts(host, [])
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::", "h")] == (
        [True] * 4 + [False] * 3
    )
    assert Settings(Path("x")).host == "127.0.0.1"


def test_a_port_that_is_taken_or_an_address_of_others() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port .*Address already in use"):
            check_free("127.0.0.1", one.getsockname()[1])
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.77"):
        check_free("192.0.2.77", 5000)


def test_the_database_and_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path)
    assert database_uri(settings) == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "word").write_text("p@ss/w%rd:1\n")
    there = replace(settings, database="postgresql+psycopg2://ann@host/db", database_password=tmp_path / "word")
    uri = database_uri(there)
    plain, variables = server._split(uri)
    assert (plain, variables) == ("postgresql+psycopg2://ann@host/db", {"PGPASSWORD": "p@ss/w%rd:1"})
    with pytest.raises(UserError, match="a password on a command line is seen by everyone") as error:
        database_uri(replace(settings, database="postgresql://ann:Tr0ub4dor@host/db"))
    assert "Tr0ub4dor" not in str(error.value)
    with pytest.raises(UserError, match="no use for one more password"):
        database_uri(replace(settings, database_password=tmp_path / "word"))
    with pytest.raises(UserError, match="give an address such as"):
        database_uri(replace(settings, database="mlflow.db"))
    monkeypatch.setenv(DATABASE, "mysql+pymysql://ann:Tr0ub4dor@host/db")
    assert server._split(database_uri(settings)) == ("mysql+pymysql://ann:Tr0ub4dor@host/db", {})


@pytest.mark.parametrize("text", ["postgresql://a@h/d", "sqlite:////a%20b/50%/x.db", "mysql://u:%(x)s%%@h/d"])
def test_mlflow_reads_what_is_written_for_it(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users.ini").write_text(users_ini(text, "ann%", "EDIT"))
    read = configparser.ConfigParser()  # as mlflow.server.auth.config.read_auth_config does
    read.read(tmp_path / "users.ini")
    found = read["mlflow"]
    assert (found["database_uri"], found["admin_username"], found["default_permission"]) == (text, "ann%", "EDIT")


def test_files_that_only_the_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    key = kept_key(file)
    assert len(key) == 64 and kept_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        kept_key(file)
    (tmp_path / "open").write_text("old")
    (tmp_path / "open").chmod(0o666)
    server.write_private(tmp_path / "open", "new")
    assert (tmp_path / "open").read_text() == "new" and stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o600


def test_nothing_is_started_or_written_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a password"):
        server.serve(Settings(tmp_path / "kept"))
    assert list(tmp_path.iterdir()) == []


def users_database(file: Path, **passwords: str) -> str:
    """As MLflow's table of users is, with admins alone."""
    from werkzeug.security import generate_password_hash

    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE users (id INTEGER, username TEXT, password_hash TEXT, is_admin BOOLEAN)")
        for name, word in passwords.items():
            database.execute("INSERT INTO users VALUES (1, ?, ?, TRUE)", (name, generate_password_hash(word)))
    return f"sqlite:///{file}"


def test_users_with_mlflows_former_default_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = users_database(tmp_path / "one.db", admin="password1234")
    server._check_database(uri, "admin", GOOD)  # the given one takes its place: test_server.py
    with pytest.raises(UserError, match=r"^admin of sqlite:.* former default password: start once with --admin admin"):
        server._check_database(uri, "boss", GOOD)
    assert capsys.readouterr().err == ""
    uri = users_database(tmp_path / "two.db", admin="another-good-password")
    server._check_database(uri, "admin", GOOD)
    assert "'admin' has another password than the one given, and keeps it" in capsys.readouterr().err
    server._check_database(uri, "admin", "another-good-password")
    server._check_database(f"sqlite:///{tmp_path}/none.db", "admin", GOOD)
    assert capsys.readouterr().err == "" and not (tmp_path / "none.db").exists()


def revised(file: Path, revision: str) -> str:
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    return f"sqlite:///{file}"


def test_databases_of_other_mlflows(tmp_path: Path) -> None:
    old = schema_problem(revised(tmp_path / "old.db", "451aebb31d03"))  # MLflow 1.0's
    assert old and "older MLflow (schema 451aebb31d03" in old
    assert f"`mlflow db upgrade sqlite:///{tmp_path}/old.db`" in old and "PGPASSWORD" not in old
    new = schema_problem(revised(tmp_path / "new.db", "fedcba987654"))
    assert new and "is of another MLflow (schema fedcba987654" in new and "newer MLflow" in new
    assert schema_problem(f"sqlite:///{tmp_path}/none.db") is None and not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert schema_problem(f"sqlite:///{tmp_path}/empty.db") is None


def test_preflight_says_that_a_database_must_be_migrated(tmp_path: Path) -> None:
    uri = revised(tmp_path / "old.db", "451aebb31d03")
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\ngrid: {{methods: [at], seeds: [0]}}\ntracking: {{uri: '{uri}'}}\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"^tracking: the database sqlite:.* is of an older MLflow") as error:
        check(load_sweep_file(path).sweep)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


DATABASES = {
    "postgresql+psycopg://ann:Tr0ub4dor@127.0.0.1:1/db": "connection to server at",
    "postgresql+nothing://ann:Tr0ub4dor@host/db": "is no address of a database or a tracking server: Can't load",
    "mssql+pyodbc://ann:Tr0ub4dor@host/db": "needs a driver: No module named 'pyodbc'",
    "ftp://ann:Tr0ub4dor@host/db": "is no address of a database or a tracking server",
}


@pytest.mark.parametrize("uri", DATABASES)
def test_databases_that_cannot_be_used(uri: str) -> None:
    found = schema_problem(uri)
    assert found and DATABASES[uri] in found
    assert "Tr0ub4dor" not in found and "ann:***@" in found and "\n" not in found
