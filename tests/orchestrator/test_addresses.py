"""Passwords in addresses: found, taken out of everything that is shown, and refused where others would see them."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.addresses import completed, hidden, is_server, public, refusal, secret, shown, without_secret
from orchestrator.errors import UserError
from orchestrator.recorded import Places, open_sweep
from orchestrator.spec.loading import load_sweep_file
from orchestrator.tracking import Store
from orchestrator.tracking_place import tracking_uri

SWEEP = {"name": "s", "grid": {"methods": ["at"], "seeds": [0]}}
WORD = "Tr0ub4dor"

CASES = {  # address: its password, what is shown, without it
    f"http://ann:{WORD}@host:5000/x": (WORD, "http://ann:***@host:5000/x", "http://ann@host:5000/x"),
    f"https://:{WORD}@host": (WORD, "https://:***@host", "https://@host"),
    f"postgresql://ann:{WORD}@host/db": (WORD, "postgresql://ann:***@host/db", "postgresql://ann@host/db"),
    "postgresql://ann:a/b@c#d?e@host/db": ("a/b@c#d?e", "postgresql://ann:***@host/db", "postgresql://ann@host/db"),
    f"mysql+pymysql://ann:{WORD}@host/db": (WORD, "mysql+pymysql://ann:***@host/db", "mysql+pymysql://ann@host/db"),
    f"postgresql://host/db?user=ann&password={WORD}&sslmode=require": (
        WORD,
        "postgresql://host/db?user=ann&password=***&sslmode=require",
        "postgresql://host/db?user=ann&password=&sslmode=require",
    ),
}
PLAIN = [
    *("http://host:5000", "http://host:5000/a@b", "http://host/a:b@c", "https://ann@host", "postgresql://ann@host/db"),
    *("sqlite:////home/me/a:b@c/mlflow.db", "postgresql://host/db?sslmode=require", "databricks", "mlruns", ""),
]


@pytest.mark.parametrize("uri", CASES)
def test_an_address_with_a_password(uri: str) -> None:
    word, display, rest = CASES[uri]
    assert (secret(uri), shown(uri), without_secret(uri)) == (word, display, rest)
    assert word not in public(uri) and "ann" not in public(uri).replace("user=ann", "")
    assert hidden(f"cannot reach {uri}: no", uri) == f"cannot reach {display}: no"
    reason = refusal(uri)
    assert reason and word not in reason and ("MLFLOW_TRACKING_USERNAME" in reason) == is_server(uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_one_stays_as_it_is(uri: str) -> None:
    assert (secret(uri), refusal(uri)) == (None, None)
    assert uri == shown(uri) == without_secret(uri) == hidden(uri, uri)


def test_the_decoded_password_is_hidden_too() -> None:
    uri = "postgresql://ann:p%40ss%2Fword@host/db"
    assert hidden("FATAL: p@ss/word of p%40ss%2Fword", uri) == "FATAL: *** of ***"


@given(st.text(string.ascii_letters + string.digits + "%-_.!*()", min_size=1, max_size=20))
def test_any_password_is_taken_out(word: str) -> None:
    for scheme in ("http", "postgresql", "postgresql+psycopg2"):
        uri = f"{scheme}://u:{word}@h:1/p"
        assert shown(uri) == f"{scheme}://u:***@h:1/p" and secret(uri) == word


def test_a_worker_finds_the_password_in_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://ann:{WORD}@host:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert completed(without_secret(uri)) == without_secret(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert completed(without_secret(uri)) == uri
    assert completed("http://ann@other:5000") == "http://ann@other:5000"


def write(folder: Path, tracking: object) -> Path:
    path = folder / "s.yaml"
    path.write_text(json.dumps(SWEEP | {"tracking": tracking}))
    return path


@pytest.mark.parametrize("uri", CASES)
def test_refused_in_a_sweep_file_and_on_the_command_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_sweep_file(write(tmp_path, {"uri": uri}))
    assert "tracking.uri: " in str(error.value) and "leave it out" in str(error.value)
    assert CASES[uri][0] not in str(error.value) and len(str(error.value).splitlines()) == 1
    path = write(tmp_path, {})
    with pytest.raises(UserError, match=r"^--tracking-uri: .* leave it out") as error:
        open_sweep(str(path), Places(tracking_uri=uri))
    assert CASES[uri][0] not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_taken_from_the_environment_and_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite+nothing://ann:{WORD}@host/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sweep = load_sweep_file(write(tmp_path, {})).sweep
    assert tracking_uri(sweep) == uri
    assert WORD not in sweep.model_dump_json()
    with pytest.raises(UserError) as error:
        Store.of(sweep)
    assert WORD not in str(error.value) and "sqlite+nothing://ann:***@host/db" in str(error.value)
