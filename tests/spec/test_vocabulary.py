"""Every registered component is documented, describes itself and survives JSON; defaults are the base recipe's."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic_core import PydanticCustomError

from orchestrator.spec.base import Component, Registry
from orchestrator.spec.data import DATA, Cifar10
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.methods import METHODS, WEIGHT_PERTURBABLE, AdversarialWeightPerturbation
from orchestrator.spec.models import MODELS, ResNet18
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.resources import Resources
from orchestrator.spec.sweep import Evaluation, Grid, Sweep, Tracking, Trial
from orchestrator.spec.training import OPTIMIZERS, SCHEDULES, Attack, EvaluationAttack, Multistep, Sgd, Training

REGISTRIES = (DATA, MODELS, METHODS, REGULARIZERS, MEASURES, OPTIMIZERS, SCHEDULES)


def required(cls: type[Component]) -> dict[str, Any]:
    """Values for the parameters that have no default."""
    fields = {key: field for key, field in cls.model_fields.items() if field.is_required()}
    return {
        key: "a.npz" if field.annotation is str else next(iter(get_args(field.annotation)), 0.25)
        for key, field in fields.items()
    }


def components() -> Iterator[Any]:
    for registry in REGISTRIES:
        assert isinstance(registry, Registry)
        for name, cls in registry.classes().items():
            yield pytest.param(registry, name, cls, id=f"{registry.kind}-{name}")


@pytest.mark.parametrize(("registry", "name", "cls"), list(components()))
def test_component(registry: Registry[Component], name: str, cls: type[Component]) -> None:
    assert "__doc__" in vars(cls) and len((cls.__doc__ or "").split()) >= 4
    assert re.fullmatch(r"[a-z_]\w*(\.\w+)+:[A-Za-z_]\w*", cls.implementation)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    found = registry.parse({"name": name, **required(cls)})
    assert type(found) is cls and found.name == name
    assert found.label().startswith(name)
    assert registry.parse(found) is found
    assert cls.model_validate_json(found.model_dump_json()) == found
    for key, field in cls.model_json_schema()["properties"].items():
        assert key == "name" or len(field.get("description", "")) > 5, key


@pytest.mark.parametrize(
    "cls",
    [Attack, EvaluationAttack, Training, Grid, Evaluation, Resources, Tracking, Sweep],
    ids=lambda cls: cls.__name__,
)
def test_sections_describe_every_field(cls: Any) -> None:
    assert all(len(field.description or "") > 5 for field in cls.model_fields.values())


@pytest.mark.parametrize("method", METHODS.classes())
@pytest.mark.parametrize("regularizer", REGULARIZERS.classes())
def test_trials_survive_json(method: str, regularizer: str) -> None:
    parts = {"name": regularizer, **required(REGULARIZERS.get(regularizer))}
    trial = Trial.model_validate(
        {"data": {"name": "npz", "path": "a.npz"}, "model": "wide_resnet", "method": method, "regularizers": [parts],
         "training": {"attack": {"eps": "8/255"}}, "seed": 2**63 - 1}
    )  # fmt: skip
    again = Trial.model_validate_json(trial.model_dump_json())
    assert again == trial and again.trial_id == trial.trial_id


def test_evaluation_survives_json() -> None:
    assert Evaluation.model_validate_json(Evaluation().model_dump_json()) == Evaluation()


@pytest.mark.parametrize("method", WEIGHT_PERTURBABLE.classes())
def test_awp_over(method: str) -> None:
    found = AdversarialWeightPerturbation.model_validate({"over": method})
    expected = (0.005, 10) if method == "trades" else (0.01, 0)
    assert (found.gamma, found.warmup) == expected
    assert AdversarialWeightPerturbation(over=WEIGHT_PERTURBABLE.parse(method)) == found
    with pytest.raises(PydanticCustomError):
        WEIGHT_PERTURBABLE.parse(found)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (Training(), "epochs", 150),
        (Training(), "batch_size", 128),
        (Training(), "optimizer", Sgd()),
        (Training(), "schedule", Multistep()),
        (Sgd(), "lr", 0.05),
        (Sgd(), "momentum", 0.9),
        (Sgd(), "nesterov", True),
        (Sgd(), "weight_decay", 5e-4),
        (Multistep(), "milestones", (60, 90, 120)),
        (Multistep(), "gamma", 0.1),
        (Attack(), "norm", "linf"),
        (Attack(), "eps", 8 / 255),
        (Attack(), "step_size", 0.007),
        (Attack(), "steps", 7),
        (Attack(), "restarts", 1),
        (Attack(), "random_start", True),
        (Attack(), "best_iterate", True),
        (Cifar10(), "augmentation", "crop_flip"),
        (Cifar10(), "padding", 4),
        (ResNet18(), "width", 64),
        (EvaluationAttack(), "steps", 20),
    ],
    ids=str,
)
def test_base_recipe(part: Any, field: str, value: Any) -> None:
    """SCIENCE.md section 2."""
    assert getattr(part, field) == value


def test_multistep_factors() -> None:
    schedule = Multistep()
    assert [schedule.factor(epoch, 150) for epoch in (0, 59, 60, 90, 120)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])


def test_two_components_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two methods are called 'at'"):
        METHODS.register(METHODS.get("at"))
