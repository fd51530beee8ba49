"""What a trial's id depends on. The pinned ids are a promise: changing one means training every network again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from orchestrator.spec.base import ID_LENGTH, Registry, Spec, added_field, canonical, digest, flatten, location
from orchestrator.spec.data import DATA
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.methods import METHODS
from orchestrator.spec.models import MODELS
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.sweep import Evaluation, Sweep, Trial
from orchestrator.spec.training import OPTIMIZERS, SCHEDULES, Attack

OTHER: dict[str, Any] = {
    "keep": "last",
    "early_stopping": {"every": 2},
    "unlabeled": {"size": 10},
    "title": "another",
    "optimizer": {"name": "sgd", "lr": 0.125},
    "schedule": "constant",
    "over": "mart",
    "depth": 16,
    "width": 12,
    "heads": 3,
    "milestones": [3],
    "restarts": 3,
    "classes": 3,
    "points": 5,
    "attacks": ["square"],
}
"""Another value of the fields for which `another` finds none."""


def required(cls: type[Spec]) -> dict[str, Any]:
    """Values for the parameters that have no default."""
    fields = {key: field for key, field in cls.model_fields.items() if field.is_required()}
    return {
        key: "a.npz" if field.annotation is str else next(iter(get_args(field.annotation)), 0.25)
        for key, field in fields.items()
    }


def trial(**changes: Any) -> Trial:
    parts = {"data": "digits", "model": "small_preact_resnet", "method": "at", "training": {}, "seed": 0}
    return Trial.model_validate(parts | changes)


def test_pinned_trials() -> None:
    cifar = {"name": "cifar10", "root": "/anywhere"}
    awp = {"name": "awp", "over": {"name": "trades", "beta": 3}}
    both = [{"name": "label_noise", "rate": 0.3}, {"name": "weight_decay", "value": 5e-3}]
    attack = {"norm": "l2", "eps": "1/2", "step_size": 0.1, "best_iterate": False}
    assert trial().trial_id == "e88ad7d91ff4aa75"
    assert (
        trial(data=cifar, model="preact_resnet18", method=awp, regularizers=both, seed=7).trial_id == "2b011363dd210c42"
    )
    assert (
        trial(method="trades", training={"epochs": 3, "schedule": "constant", "attack": attack}).trial_id
        == "157f32af4cf2e5b7"
    )


def test_pinned_evaluation() -> None:
    assert Evaluation().evaluation_id == "2744c766b9591ed0"


def test_the_form_of_an_id() -> None:
    assert len(trial().trial_id) == ID_LENGTH and set(trial().trial_id) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"training": {"optimizer": {"name": "sgd", "lr": 0.1}}},
         {"training": {"optimizer": {"name": "sgd", "lr": "1e-1"}}}),
        ({"training": {"attack": {"eps": "8/255"}}}, {"training": {"attack": {"eps": 0.03137254901960784}}}),
        ({"training": {"attack": {"eps": "8/255"}}}, {"training": {}}),
        ({"training": {"optimizer": {"name": "sgd", "weight_decay": 0}}},
         {"training": {"optimizer": {"name": "sgd", "weight_decay": -0.0}}}),
        ({"training": {"epochs": 150.0}}, {"training": {"epochs": 150}}),
        ({"method": "trades"}, {"method": {"name": "trades", "beta": 6}}),
        ({"method": {"name": "awp", "over": "trades"}},
         {"method": {"name": "awp", "over": "trades", "gamma": 0.005, "warmup": 10}}),
        ({"regularizers": [{"name": "label_noise", "rate": 1}, {"name": "weight_decay", "value": 1}]},
         {"regularizers": [{"name": "weight_decay", "value": 1.0}, {"name": "label_noise", "rate": "1/1"}]}),
        ({"data": {"name": "npz", "path": "a/x.npz"}}, {"data": {"name": "npz", "path": "b/other.npz", "title": "x"}}),
        ({"data": {"name": "mnist", "root": "a"}}, {"data": {"name": "mnist", "root": "b", "download": True}}),
    ],
    ids=str,
)  # fmt: skip
def test_the_same_trial(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert trial(**one).trial_id == trial(**other).trial_id


def test_yaml_spelled_differently_is_one_sweep(tmp_path: Path) -> None:
    texts = [
        "name: a\ngrid:\n  methods: [at, trades]\n  seeds: [0, 1]\ntraining:\n  optimizer: {name: sgd, lr: 1e-1}\n",
        "training: {'optimizer': {lr: 0.10, \"name\": sgd}, epochs: 150}\n"
        "storage: elsewhere\nname: b\ngrid:\n  seeds:\n  - 0\n  - 1\n  methods:\n  - {name: at}\n"
        "  - {beta: 6.0, name: trades}\n",
    ]
    ids = []
    for index, text in enumerate(texts):
        path = tmp_path / str(index) / "s.yaml"
        path.parent.mkdir()
        path.write_text(text)
        ids.append([found.trial_id for found in load_sweep_file(path).sweep.trials()])
    assert ids[0] == ids[1] and len(set(ids[0])) == 4


def another(name: str, value: Any, annotation: Any) -> Any:
    """A valid value of the field that is not `value`."""
    if name in OTHER:
        return OTHER[name]
    literals = [item for item in [*get_args(annotation), *(i for a in get_args(annotation) for i in get_args(a))]
                if isinstance(item, str)]  # fmt: skip
    if literals:
        return next(item for item in literals if item != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        return [item / 2 for item in value]
    if isinstance(value, float):
        return value / 2 if value else 0.5
    return 1 if value is None else value + 1 if isinstance(value, int) else f"{value}x"


def components() -> Iterator[tuple[str, type[Spec], dict[str, Any]]]:
    for registry in (DATA, MODELS, METHODS, REGULARIZERS, MEASURES, OPTIMIZERS, SCHEDULES):
        assert isinstance(registry, Registry)
        for name, cls in registry.classes().items():
            yield name, cls, {"name": name} | required(cls)
    yield "attack", Attack, {}
    yield "trial", Trial, {"data": "digits", "model": "resnet18", "method": "at", "training": {}, "seed": 0}
    yield "training", Trial.model_fields["training"].annotation or Spec, {}


def fields() -> Iterator[Any]:
    for name, cls, given in components():
        for key, field in cls.model_fields.items():
            is_part = isinstance(getattr(cls.model_validate(given), key), Spec) and key not in OTHER
            if key != "name" and not is_part and key != "regularizers":
                yield pytest.param(cls, given, key, field, id=f"{name}.{key}")


@pytest.mark.parametrize(("cls", "given", "key", "field"), list(fields()))
def test_each_field_counts_unless_it_is_a_location(
    cls: type[Spec], given: dict[str, Any], key: str, field: Any
) -> None:
    before = cls.model_validate(given)
    after = cls.model_validate(before.model_dump() | {key: another(key, getattr(before, key), field.annotation)})
    assert getattr(after, key) != getattr(before, key)
    is_location = field.json_schema_extra == {"identity": False}
    elsewhere = {"root", "download", "path", "keep_every", "keep", "checkpoint_minutes", "compile", "preset"}
    assert is_location == (key in elsewhere)
    assert (digest(after) == digest(before)) == is_location


def test_every_part_of_a_trial_counts() -> None:
    changed = [
        trial(),
        trial(data="mnist"),
        trial(model="resnet18"),
        trial(method="mart"),
        trial(regularizers=[{"name": "label_noise", "rate": 0.5}]),
        trial(training={"attack": {"steps": 3}}),
        trial(seed=1),
    ]
    assert len({found.trial_id for found in changed}) == len(changed)


def test_a_changed_copy_has_an_id_of_its_own() -> None:
    trial = Trial.model_validate({"data": "digits", "model": "resnet18", "method": "at", "training": {}, "seed": 0})
    asked, other = trial.trial_id, trial.model_copy(update={"seed": 1})
    assert other.trial_id == Trial.model_validate(other.model_dump()).trial_id != asked
    assert trial.model_copy().trial_id == trial.model_copy(deep=True).trial_id == asked


def test_trials_of_a_sweep_are_those_that_are_validated_one_by_one() -> None:
    grid = {"methods": ["at", {"name": "trades", "beta": [1, 6]}], "seeds": [0, 1]}
    grid |= {"regularizers": ["none", [{"name": "cutout", "size": 4}, {"name": "weight_decay", "value": 0.01}]]}
    trials = Sweep.model_validate({"name": "x", "grid": grid}).trials()
    assert len(trials) == 12
    for trial in trials:
        checked = Trial.model_validate(trial.model_dump())
        assert (checked, checked.trial_id, hash(checked)) == (trial, trial.trial_id, hash(trial))


def test_an_added_field_keeps_old_ids() -> None:
    class Old(Spec):
        kind: Literal["a"] = "a"

    class New(Old):
        extra: float = added_field(0.5)
        where: str = location("here")

    assert digest(New()) == digest(New(extra=0.5)) == digest(New(where="there")) == digest(Old())
    assert digest(New(extra=0.25)) != digest(Old())
    assert canonical(New(extra=0.25)) == {"kind": "a", "extra": 0.25}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}]}) == {"a.b": 1, "a.c": "[1, 2]", "d.0.e": None}
