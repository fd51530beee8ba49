"""The schema describes the file as written: it takes the starter and refuses what loading would refuse."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.spec.data import DATA
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.methods import METHODS
from orchestrator.spec.models import MODELS
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.schema import sweep_schema
from orchestrator.spec.starter import STARTER, starter_text
from orchestrator.spec.training import OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).parents[2]
MINIMAL = {"name": "x", "grid": {"methods": ["at"], "seeds": [0]}}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(sweep_schema())
    return jsonschema.Draft202012Validator(sweep_schema())


def document(**changes: Any) -> dict[str, Any]:
    """The minimal sweep with values put at places such as `training__attack__eps`."""
    result = copy.deepcopy(MINIMAL)
    for place, value in changes.items():
        *path, last = place.split("__")
        inner: Any = result
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return result


def test_starter_is_the_default_sweep(validator: jsonschema.Draft202012Validator) -> None:
    assert (ROOT / "experiments.yaml").read_text(encoding="utf-8") == starter_text() == STARTER
    validator.validate(yaml.safe_load(STARTER))
    assert len(load_sweep_file(ROOT / "experiments.yaml").sweep.trials()) == 18


@pytest.mark.parametrize("registry", [DATA, MODELS, METHODS, REGULARIZERS, MEASURES, OPTIMIZERS, SCHEDULES])
def test_every_component_is_there(registry: Any) -> None:
    text = json.dumps(sweep_schema())
    for name in registry.classes():
        assert f'"const": "{name}"' in text


GOOD = [
    document(),
    document(data="mnist", model={"name": "wide_resnet", "depth": [16, 28]}),
    document(training__attack__eps=["8/255", 0.1], training__epochs=[1, 2]),
    document(training__schedule={"name": "multistep", "milestones": [[1, 2], [3]]}),
    document(training__schedule=["constant", {"name": "multistep", "milestones": [1, 2]}]),
    document(grid__methods=[{"name": "awp", "over": ["at", {"name": "trades", "beta": [1, 6]}], "gamma": 0.01}]),
    document(grid__regularizers=["none", {"name": "label_noise", "rate": [0.1, 0.2]}]),
    document(grid__regularizers=[[{"name": "label_noise", "rate": [0.1]}, {"name": "weight_decay", "value": "1e-3"}]]),
    document(evaluation__measures=["robustness", {"name": "average_flatness", "xi": [0.1, 0.5]}]),
    document(grid=[MINIMAL["grid"], MINIMAL["grid"] | {"training": {"epochs": [1, 2]}, "model": "resnet18"}]),
    document(data="mnist", grid__data={"train_size": 10}, grid__training__attack={"steps": [1, 2]}),
    document(resources={"gpu": "1/4", "accelerator_type": "H100", "custom": {"lane": 1, "x": "1/2"}}),
    document(profiles={}),
    document(profiles={"small": {}}),
    document(resources={"custom": {"lane": 1}}, profiles={"small": {"resources": {"custom": {"x": 1}, "gpu": 1}}}),
    document(profiles={"small": {"training": {"epochs": 1}, "data": {"train_size": 10}, "grid": {"seeds": [1]}}}),
    document(profiles={"a": {"name": "b", "grid": [MINIMAL["grid"]]}, "c": {"evaluation": {"seed": 1}}}),
    document(profiles={"a": {"training": {"optimizer": {"lr": "1e-2"}, "schedule": {"milestones": [[1], [2]]}}}}),
]
BAD = [
    [],
    {},
    {"name": "x"},
    document(nam="y"),
    document(name=3),
    document(data=["digits"]),
    document(data={"split_seed": 1}),
    document(data="cifar"),
    document(data="npz"),
    document(model={"name": "resnet18", "depth": 3}),
    document(training=[{}]),
    document(training__epochs=0),
    document(training__epochs=[]),
    document(training__epochs="many"),
    document(training__attack__eps=-1),
    document(training__attack__eps="8:255"),
    document(training__attack__norm="l3"),
    document(training__optimizer={"lr": 0.1}),
    document(training__optimizer={"name": "sgd", "momentum": 1}),
    document(grid__methods=[]),
    document(grid__methods="at"),
    document(grid__methods=["nothing"]),
    document(grid__methods=[{"name": "awp", "over": "standard"}]),
    document(grid__methods=[["at"]]),
    document(grid__regularizers=["label_noise"]),
    document(grid__regularizers=[{"name": "label_noise", "rate": 2}]),
    document(grid__regularizers=[["none"]]),
    document(grid__seeds=[-1]),
    document(grid__seeds=3),
    document(evaluation__measures=[]),
    document(evaluation__measures=[{"name": "average_flatness", "draws": [1, 2]}]),
    document(resources__gpu=-1),
    document(resources__custom={"lane": 0}),
    document(resources__max_concurrent=0),
    document(grid=[]),
    document(grid=["at"]),
    document(grid=[{"methods": ["at"]}]),
    document(grid__training__epochs=0),
    document(grid__training=[{}]),
    document(grid__data={"name": "nothing"}),
    document(profiles=["small"]),
    document(profiles={"small": []}),
    document(profiles={"small": {"trainig": {}}}),
    document(profiles={"a/b": {}}),
    document(profiles={"small": {"profiles": {}}}),
]
ONLY_WHEN_USED = [
    {"training": {"epochs": 0}},
    {"training": {"attack": {"stepz": 1}}},
    {"model": {"widht": 3}},
    {"grid": {"seeds": [-1]}},
    {"grid": [{"seeds": [1]}]},
    {"grid": {"regularizers": [{"name": "label_noise"}]}},
    {"evaluation": {"measures": []}},
    {"resources": {"cpu": 0}},
]
"""Changes that a profile cannot make, which loading leaves alone while nobody asks for the profile."""


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_good(good: Any, validator: jsonschema.Draft202012Validator, tmp_path: Path) -> None:
    validator.validate(good)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(good))
    assert load_sweep_file(tmp_path / "s.yaml").sweep.trials()


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad(bad: Any, validator: jsonschema.Draft202012Validator, tmp_path: Path) -> None:
    assert not validator.is_valid(bad)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(bad))
    with pytest.raises(Exception, match=r"s\.yaml"):
        load_sweep_file(tmp_path / "s.yaml")


@pytest.mark.parametrize("bad", ONLY_WHEN_USED, ids=str)
def test_bad_in_a_profile(bad: Any, validator: jsonschema.Draft202012Validator, tmp_path: Path) -> None:
    written = document(profiles={"small": bad})
    assert not validator.is_valid(written)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(written))
    assert load_sweep_file(tmp_path / "s.yaml").sweep.trials()
    with pytest.raises(Exception, match=r"s\.yaml"):
        load_sweep_file(tmp_path / "s.yaml", "small")
