"""Whatever is written where a name belongs: refused in one message, or it works to the letter; never a way into SQL,
into another sweep's runs, or out of the storage."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.recorded import Places, open_sweep
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import NAME_PATTERN
from orchestrator.tracking import Store

NASTY = [
    *("it's", 'a"b', "a`b", "a\\", "a\\'", "%", "a%", "a_b", "_", "a' OR '1'='1", "x'; DROP TABLE runs; --", "x' --"),
    *("a' and tags.`flatsweep.kind` = 'sweep", "a\nb", "a\n", "\ta", "a b", " a", "", ".", "..", "../x", "/x", "a/b"),
    *(
        "a\\b",
        "~",
        "~root",
        "-a",
        "--help",
        "$HOME",
        "${x}",
        "a;b",
        "a|b",
        "*",
        "?",
        "[a]",
        "{a}",
        "\0",
        "a\0b",
        "\x1b[0m",
    ),
    *(
        "\u00e9",
        "e\u0301",
        "\u202ea",
        "\uff41",
        "\U0001f600",
        "\u0130",
        "a" * 101,
        "a" * 10_000,
        "CON",
        "a.",
        "A",
        "a-B.c_1",
    ),
    *(
        "None",
        "null",
        "0x10",
        "1e3",
        "true",
        "a..b",
        "=cmd",
        "<b>",
        "&amp;",
        "{{7*7}}",
        "%s",
        "%(a)s",
        "#",
        "a#b",
        "a:b",
    ),
]


def written(folder: Path, name: str) -> Path:
    path = folder / "f.yaml"
    path.write_text(json.dumps({"name": name, "grid": {"methods": ["at"], "seeds": [0]}}), encoding="utf-8")
    return path


def taken(folder: Path, name: str) -> bool:
    """Whether a sweep file with this name is read; otherwise one message says why not."""
    try:
        sweep = load_sweep_file(written(folder, name)).sweep
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable() and len(str(error)) < 900
        return False
    assert sweep.name == name
    return True


def test_which_names_are_taken(tmp_path: Path) -> None:
    assert [name for name in NASTY if taken(tmp_path, name)] == [
        *("a_b", "CON", "a.", "A", "a-B.c_1", "None", "null", "0x10", "1e3", "true"),
    ]


ANY = st.text(max_size=30) | st.from_regex(NAME_PATTERN, fullmatch=True).flatmap(
    lambda name: st.builds(
        lambda at, extra: name[:at] + extra + name[at:], st.integers(0, len(name)), st.text(max_size=2)
    )
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY)
def test_a_name_that_is_taken_is_one_folder_and_one_plain_word(tmp_path: Path, name: str) -> None:
    if not taken(tmp_path, name):
        return
    sweep = load_sweep_file(tmp_path / "f.yaml").sweep
    folder = Path(f"{sweep.storage}/{sweep.name}")
    assert folder.parent == Path(sweep.storage) and folder.resolve().parent == Path(sweep.storage).resolve()
    assert not set(name) & set("'\"`\\%$;/ \n\t\0*?[]{}<>&|~#:") and name.isascii()


NEIGHBOURS = [
    "a",
    "A",
    "a_b",
    "aXb",
    "a-b",
    "a.b",
    "ab",
    "b",
    "a_",
    "a.",
    "null",
    "None",
    "true",
    "1e3",
    "1000",
    "a" * 100,
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One experiment that holds a parent run and a trial of each of the neighbours."""
    folder = tmp_path_factory.mktemp("names")
    held = Store(f"sqlite:///{folder}/mlflow.db", "shared", folder / "artifacts")
    held.prepare()
    for name in NEIGHBOURS:
        sweep = load_sweep_file(written(folder, name)).sweep
        parent = held.open_parent(sweep, "", "")
        held.create_trial_run(sweep.trials()[0], sweep.evaluation, name, parent, "")
    return held


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_exactly_its_runs(name: str, store: Store) -> None:
    (run,) = store.trial_runs(name)
    assert run.tags["sweep"] == name
    assert [found.run_id for found in store.changed_runs(name, 0)] == [run.run_id]
    assert store.holds_exactly(name, [run.run_id])
    parent = store.client.get_run(str(store.parent_run(name)))
    assert (parent.data.tags["flatsweep.sweep"], parent.data.tags["flatsweep.kind"]) == (name, "sweep")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NASTY) | st.text(max_size=20))
def test_the_store_is_asked_for_names_alone(store: Store, name: str) -> None:
    if NAME_PATTERN.fullmatch(name):
        assert all(run.tags["sweep"] == name for run in store.trial_runs(name))
    else:
        for ask in (store.trial_runs, store.parent_run):
            with pytest.raises(ValueError, match="is not a sweep's name"):
                ask(name)


@pytest.mark.parametrize("name", [name for name in NASTY if name and not NAME_PATTERN.fullmatch(name)])
def test_a_sweep_is_looked_up_in_the_storage_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sweep.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        open_sweep(name, Places(storage=str(tmp_path / "runs")))
    assert "Traceback" not in str(error.value)
