"""A parameter given as a list is an axis of the grid."""

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.spec import axes
from orchestrator.spec.axes import TooManyCells, expand_sweep
from orchestrator.spec.sweep import Sweep


def sweep(methods: Any = ("at",), regularizers: Any = ("none",), seeds: Any = (0,), **rest: Any) -> Sweep:
    grid = {"methods": list(methods), "regularizers": list(regularizers), "seeds": list(seeds)}
    grid |= {"exclude": rest.pop("exclude")} if "exclude" in rest else {}
    return Sweep.model_validate({"name": "x", "grid": grid, **rest})


def labels(found: Sweep) -> list[str]:
    return [trial.label() for trial in found.trials()]


NOISE = {"name": "label_noise", "rate": 0.1}
DECAY = {"name": "weight_decay", "value": [1, 2]}


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 1),
        ({"seeds": range(7)}, 7),
        ({"methods": ["at", {"name": "trades", "beta": [1, 3, 6]}], "seeds": [0, 1]}, 8),
        ({"methods": [{"name": "awp", "over": ["at", {"name": "trades", "beta": [1, 6]}]}]}, 3),
        ({"methods": [{"name": "awp", "over": ["at", "mart"], "gamma": [0.01, 0.02]}]}, 4),
        ({"regularizers": ["none", None, NOISE][::2]}, 2),
        ({"regularizers": [[NOISE, DECAY]]}, 2),
        ({"regularizers": [{"name": "label_noise", "rate": [0.1, 0.2]}, [NOISE, DECAY]]}, 4),
        ({"training": {"epochs": [1, 2], "attack": {"steps": [1, 2, 3]}}}, 6),
        ({"training": {"attack": [{"steps": 3}, {"norm": "l2", "eps": [0.5, 1]}]}}, 3),
        ({"training": {"schedule": ["constant", {"name": "multistep", "gamma": [0.1, 0.5]}]}}, 3),
        ({"training": {"schedule": {"name": "multistep", "milestones": [1, 2]}}}, 1),
        ({"training": {"schedule": {"name": "multistep", "milestones": [[1, 2], [3], []]}}}, 3),
        ({"training": {"schedule": {"name": "multistep", "milestones": []}}}, 1),
        ({"data": {"name": "digits", "augmentation": ["none", "crop"]}, "model": "resnet18"}, 2),
        ({"model": {"name": "small_preact_resnet", "width": [8, 16], "blocks": [1, 2]}, "seeds": [0, 1]}, 8),
    ],
)
def test_counts(arguments: dict[str, Any], count: int) -> None:
    trials = sweep(**arguments).trials()
    assert len(trials) == len({trial.trial_id for trial in trials}) == count


def test_seeds_vary_fastest() -> None:
    assert labels(sweep(methods=["at", "mart"], seeds=[3, 1])) == [
        "at | none | seed 3",
        "at | none | seed 1",
        "mart | none | seed 3",
        "mart | none | seed 1",
    ]


def test_gamma_follows_the_method_under_awp() -> None:
    found = sweep(methods=[{"name": "awp", "over": ["at", "trades"]}])
    assert labels(found) == [
        "awp(at, gamma=0.01) | none | seed 0",
        "awp(trades, gamma=0.005, warmup=10) | none | seed 0",
    ]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"method": "at"}, 12),
        ({"method": "trades"}, 6),
        ({"method": "trades(beta=1)"}, 12),
        ({"regularizer": "none"}, 12),
        ({"regularizer": "label_noise"}, 6),
        ({"regularizer": "weight_decay(value=1) + label_noise(rate=0.1)"}, 12),
        ({"seed": 1}, 9),
        ({"method": "at", "regularizer": "none", "seed": 0}, 17),
    ],
    ids=str,
)
def test_exclude(rule: dict[str, Any], left: int) -> None:
    methods = ["at", {"name": "trades", "beta": [1, 6]}]
    regularizers = ["none", NOISE, [NOISE, {"name": "weight_decay", "value": 1}]]
    assert len(sweep(methods, regularizers, [0, 1]).trials()) == 18
    assert len(sweep(methods, regularizers, [0, 1], exclude=[rule]).trials()) == left


@pytest.mark.parametrize(
    "arguments",
    [
        {"methods": ["at", "at"]},
        {"methods": ["trades", {"name": "trades", "beta": 6}]},
        {"methods": [{"name": "trades", "beta": [6, "12/2"]}]},
        {"seeds": [0, 0]},
        {"regularizers": ["none", []]},
        {
            "regularizers": [
                [NOISE, {"name": "weight_decay", "value": 1}],
                [{"name": "weight_decay", "value": 1}, NOISE],
            ]
        },
        {"regularizers": [[NOISE, NOISE]]},
        {"training": {"epochs": [3, 3]}},
        {"training": {"epochs": []}},
        {"methods": []},
        {"methods": [{"name": "trades", "beta": [[1, 2], 3]}]},
        {"methods": [{"name": ["at", "trades"]}]},
        {"exclude": [{"method": "at"}]},
        {"exclude": [{"method": "trades"}]},
    ],
    ids=str,
)
def test_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sweep(**arguments)


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axes, "MAX_VARIANTS", 12)
    training = {"epochs": [1, 2, 3], "batch_size": [1, 2]}
    assert len(sweep(training=training, seeds=[0, 1]).trials()) == 12
    for arguments in (
        {"training": training, "seeds": [0, 1, 2]},
        {"training": {**training, "attack": {"steps": [1, 2, 3]}}},
        {"methods": [{"name": "trades", "beta": [i + j / 10 for i in range(7)]} for j in range(2)]},
    ):
        with pytest.raises(ValidationError, match="at most 12 fit one sweep"):
            sweep(**arguments)
    with pytest.raises(TooManyCells):
        expand_sweep({"training": training, "grid": {"seeds": [1, 2, 3], "methods": ["at"]}})


def test_origins_lead_back_to_the_file() -> None:
    raw = {"grid": {"methods": ["at", {"name": "trades", "beta": [1, 3]}], "regularizers": [NOISE]}}
    _, origins = expand_sweep(raw)
    assert origins["grid", 0, "methods", 2, "beta"] == ("grid", "methods", 1, "beta", 1)
    assert origins["grid", 0, "regularizers", 0, 0, "rate"] == ("grid", "regularizers", 0, "rate")


def test_an_expanded_sweep_validates_to_itself() -> None:
    found = sweep([{"name": "trades", "beta": [1, 3]}], ["none", [NOISE, DECAY]], training={"epochs": [1, 2]})
    assert Sweep.model_validate_json(found.model_dump_json()) == found
