"""Each recipe holds exactly the trials of its paper: every hyper-parameter against the tables in `recipe_tables`.

Trials are compared in the form that their identity is made of: every field, but for those that were added later and
have their defaults, and places of files.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import jsonschema
import pytest
from recipe_parts import Table
from recipe_tables import CHECKPOINTS, COUNTS, KEPT, MEASURES, STUTZ_MAIN, TRIALS
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.spec.base import canonical
from orchestrator.spec.document import read_document
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.schema import sweep_schema
from orchestrator.spec.starter import recipe_names, recipe_text

RECIPES = ("li22", "overfitting", "stutz21", "wci24", "wu20")
IDS = [f"{name}-{profile or 'full'}" for name, profile in TRIALS]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("recipes")

    @cache
    def loaded(name: str, profile: str | None = None) -> SweepFile:
        path = folder / f"{name}.yaml"
        path.write_text(recipe_text(name))
        return load_sweep_file(path, profile)

    return loaded


def as_text(trials: Iterable[Table]) -> list[str]:
    """Comparable, with 1 and 1.0 the same."""
    return sorted(json.dumps(json.loads(json.dumps(trial), parse_int=float), sort_keys=True) for trial in trials)


@pytest.mark.parametrize("key", TRIALS, ids=IDS)
def test_every_hyper_parameter_of_every_trial(key: tuple[str, str | None], load: Any) -> None:
    expected, found = as_text(TRIALS[key]), as_text(map(canonical, load(*key).sweep.trials()))
    assert set(found) - set(expected) == set()
    assert set(expected) - set(found) == set()
    assert len(found) == len(expected) == COUNTS[key[0]][key[1] is not None]


@pytest.mark.parametrize("key", TRIALS, ids=IDS)
def test_no_trial_twice(key: tuple[str, str | None], load: Any) -> None:
    ids = [trial.trial_id for trial in load(*key).sweep.trials()]
    assert len(ids) == len(set(ids))


def test_the_main_study_of_stutz21_is_its_first_five_grids(load: Any) -> None:
    sweep = load("stutz21").sweep
    main = sweep.model_copy(update={"grid": sweep.grid[:5]})
    assert as_text(map(canonical, main.trials())) == as_text(STUTZ_MAIN)
    assert len(main.trials()) == 29


@pytest.mark.parametrize("key", MEASURES, ids=IDS)
def test_every_setting_of_every_measure(key: tuple[str, str | None], load: Any) -> None:
    evaluation = load(*key).sweep.evaluation
    assert as_text(map(canonical, evaluation.measures)) == as_text(MEASURES[key])
    assert evaluation.seed == 0
    assert evaluation.checkpoints == CHECKPOINTS.get(key[0], ("last", "best"))


@pytest.mark.parametrize("key", TRIALS, ids=IDS)
def test_what_is_kept_and_where_it_runs(key: tuple[str, str | None], load: Any) -> None:
    name, profile = key
    sweep = load(*key).sweep
    assert sweep.name == (f"{name}-small" if profile else name)
    assert {trial.training.keep_every for trial in sweep.trials()} == {KEPT.get(key)}
    assert (sweep.resources.cpu, sweep.resources.gpu) == ((1, 0) if profile else (4, 1))
    assert profile is None or {data.name for data in sweep.data_sets()} == {"digits"}  # which needs no file


def test_full_data_is_found_beside_the_file(load: Any) -> None:
    for name in RECIPES:
        file = load(name)
        assert {data.model_dump()["root"] for data in file.sweep.data_sets()} == {str(file.path.parent / "data")}
        assert all(data.model_dump()["download"] for data in file.sweep.data_sets())


@pytest.mark.parametrize("name", RECIPES)
def test_schema(name: str) -> None:
    document = read_document(recipe_text(name))
    assert list(document.data["profiles"]) == ["small"]
    jsonschema.Draft202012Validator(sweep_schema()).validate(document.data)


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_first_lines_say(name: str, load: Any) -> None:
    text = recipe_text(name)
    trials = load(name).sweep.trials()
    said = re.search(rf"flatsweep plan {name}\.yaml +(\d+) trials of (\d+) epochs", text)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (len(trials), load(name).sweep.training[0].epochs)
    networks = re.search(r"(\d+) networks of each measured", text)
    kept = trials[0].training.kept_epochs
    assert (networks is not None) == (name in {"overfitting", "wci24"})
    if networks:  # those that are kept, the last and the best
        assert int(networks[1]) == len(kept) + 2
    assert all(line.isascii() and len(line) <= 120 for line in text.splitlines())


def test_they_are_all_there_and_the_command_says_so() -> None:
    assert tuple(recipe_names()) == RECIPES
    said = " ".join(CliRunner().invoke(cli.app, ["init", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert all(name in said for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_init_writes_one(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["init", "--recipe", name])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"wrote {name}.yaml; next: flatsweep plan {name}.yaml (--profile small")
    assert (tmp_path / f"{name}.yaml").read_text() == recipe_text(name)
    assert CliRunner().invoke(cli.app, ["init", "other.yaml", "--recipe", name]).exit_code == 0
    assert (tmp_path / "other.yaml").read_text() == recipe_text(name)
    planned = CliRunner().invoke(cli.app, ["plan", "other.yaml", "--profile", "small", "--json"])
    made = json.loads(planned.stdout)
    assert (made["sweep"], made["counts"]) == (f"{name}-small", {"run": COUNTS[name][1]})
    cells = [(trial["method"], trial["regularizer"], trial["setting"], trial["seed"]) for trial in made["trials"]]
    assert len(set(cells)) == len(cells)
