"""What sets trials apart beside method, regulariser and seed, and how a plan shows it."""

import io
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.plan import Traces, make_plan
from orchestrator.settings import differences, setting_labels, trial_labels
from orchestrator.show import plan_table, reasons
from orchestrator.spec.sweep import Sweep, Trial


def a_sweep(**changes: object) -> Sweep:
    return Sweep.model_validate({"name": "x", "grid": {"methods": ["at"], "seeds": [0, 1]}} | changes)


def attack(**changes: object) -> dict[str, object]:
    return {"training": {"attack": {"eps": 0.1, "step_size": 0.05, "steps": 2} | changes}}


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, {""}),
        ({"training": {"optimizer": {"name": "sgd", "lr": [0.1, 0.05]}}}, {"lr=0.1", "lr=0.05"}),
        ({"training": {"epochs": [1, 2]}, "model": {"name": "small_preact_resnet", "width": [4]}},
         {"epochs=1", "epochs=2"}),
        ({"model": {"name": "small_preact_resnet", "width": [4, 8]}, **attack(steps=[1, 2])},
         {f"width={width}, steps={steps}" for width in (4, 8) for steps in (1, 2)}),
        ({"training": {"clip_gradient": [0.5, 1]}}, {"clip_gradient=0.5", "clip_gradient=1"}),
        ({"training": {"schedule": ["constant", "cosine"]}}, {"schedule=constant", "end=0, schedule=cosine"}),
    ],
    ids=["nothing varies", "lr", "an axis of one", "two axes", "an added field", "components"],
)  # fmt: skip
def test_setting_labels(changes: dict[str, object], labels: set[str]) -> None:
    trials = a_sweep(**changes).trials()
    found = setting_labels(trials)
    assert len(found) == len(trials)
    assert set(found) == labels


def grid(**training: Any) -> dict[str, Any]:
    return {"methods": ["at"], "seeds": [0], "training": training}


def test_what_most_trials_have_is_not_named() -> None:
    grids = [
        {"methods": ["at", "mart", "trades"], "seeds": [0]},
        grid(clip_gradient=1),
        grid(attack={"steps": [1, 3, 7]}),
        grid(schedule="constant"),
    ]
    assert setting_labels(a_sweep(grid=grids).trials()) == [
        *("", "", ""), "clip_gradient=1", "steps=1", "steps=3", "schedule=constant"
    ]  # fmt: skip


def test_the_default_is_named_where_it_is_unusual() -> None:
    grids = [
        {"methods": ["at", "mart", "trades"], "seeds": [0], "training": {"clip_gradient": 1}},
        {"methods": ["at"], "seeds": [0]},
    ]
    assert setting_labels(a_sweep(grid=grids).trials()) == ["", "", "", "clip_gradient=None"]


def test_places_of_files_are_no_settings() -> None:
    one = {"name": "npz", "path": "/a/x.npz", "title": "x"}
    grids = [{"methods": [method], "seeds": [0], "data": {"path": f"/{method}/x.npz"}} for method in ("at", "mart")]
    assert setting_labels(a_sweep(data=one, grid=grids).trials()) == ["", ""]


def test_one_name_at_two_places_is_written_out() -> None:
    # weight decay of the optimizer, and as a field that another part happens to call the same
    trial = a_sweep().trials()[0]
    two = trial.model_copy(
        update={
            "data": trial.data.model_copy(update={"name": "other", "padding": 5}),
            "model": trial.model.model_copy(update={"name": "else", "width": 4}),
        }
    )
    assert setting_labels([trial, two])[1] == "data=other, padding=5, model=else, width=4"
    from orchestrator.settings import _short_names

    keys = ["training.attack.steps", "training.early_stopping.attack.steps", "model.name", "training.epochs"]
    assert list(_short_names(keys).values()) == [*keys[:2], "model", "epochs"]


AXES = (("epochs", [1, 2]), ("batch_size", [5, 6, 7]), ("clip_gradient", [None, 1.0]))


@given(st.sets(st.sampled_from(list(product(*(values for _, values in AXES)))), min_size=1))
def test_trials_with_different_settings_have_different_labels(chosen: set[tuple[Any, ...]]) -> None:
    grids = [grid(**dict(zip([name for name, _ in AXES], values, strict=True))) for values in sorted(chosen, key=str)]
    trials = a_sweep(grid=grids).trials()
    assert len(set(setting_labels(trials))) == len(trials) == len(chosen)


# the plan


def printed(sweep: Sweep, width: int = 100) -> tuple[str, str]:
    plan = make_plan(sweep, [], lambda _: Traces())
    out = []
    for table in (plan_table(plan), reasons(plan, plan.entries)):
        console = Console(file=io.StringIO(), width=width)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        out.append(console.file.getvalue())
    return out[0], out[1]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in text.splitlines() if row.strip()]


def test_a_full_grid_is_a_matrix() -> None:
    sweep = a_sweep(
        grid={"methods": ["at", "mart"], "regularizers": ["none", {"name": "dropout", "rate": 0.2}], "seeds": [0, 1]}
    )
    assert rows(printed(sweep)[0])[1:] == [
        ["method", "none", "dropout(rate=0.2)"],
        [rows(printed(sweep)[0])[2][0]],
        ["at", "2 to run", "2 to run"],
        ["mart", "2 to run", "2 to run"],
    ]


def test_a_union_of_grids_is_a_list_of_kinds() -> None:
    grids = [
        {"methods": ["at", {"name": "trades", "beta": [1, 3, 6]}, "mart", "advlc"], "seeds": [0]},
        {"methods": ["at"], "regularizers": [{"name": "label_noise", "rate": [0.1, 0.2]}], "seeds": [0]},
        {"methods": ["at"], "regularizers": [["mixup", {"name": "dropout", "rate": 0.2}]], "seeds": [0]},
        grid(attack={"steps": [1, 3]}),
    ]
    table, listed = printed(a_sweep(grid=grids), 200)
    assert [row for row in rows(table) if row[-1].endswith("to run")] == [
        ["at", "none", "1 to run"],
        ["trades", "none", "3 to run"],
        ["mart", "none", "1 to run"],
        ["advlc", "none", "1 to run"],
        ["at", "label_noise", "2 to run"],
        ["at", "mixup + dropout", "1 to run"],
        ["at", "none", "steps", "2 to run"],
    ]
    assert [row[1] for row in rows(listed)[-3:]] == [
        "at | mixup + dropout(rate=0.2) | seed 0",
        "at | none | steps=1 | seed 0",
        "at | none | steps=3 | seed 0",
    ]


def test_many_regularizers_are_a_list_too() -> None:
    noise = [{"name": "label_noise", "rate": [i / 20 for i in range(1, 15)]}]
    table, _ = printed(a_sweep(grid={"methods": ["at"], "regularizers": noise, "seeds": [0]}))
    assert rows(table)[-1] == ["at", "label_noise", "14 to run"]


def test_differences_are_named_like_labels() -> None:
    trials: list[Trial] = a_sweep(grid=[grid(), grid(epochs=3), grid(batch_size=7)]).trials()
    assert differences(trials) == [{}, {"epochs": "3"}, {"batch_size": "7"}]


def test_labels_tell_the_trials_of_a_union_apart() -> None:
    trials = a_sweep(grid=[grid(), grid(attack={"steps": [1, 7]}), grid(epochs=3)]).trials()
    assert list(trial_labels(trials).values()) == [
        "at | none | seed 0", "at | none | steps=1 | seed 0", "at | none | epochs=3 | seed 0"
    ]  # fmt: skip
    assert list(trial_labels(trials)) == [trial.trial_id for trial in trials]
    assert trial_labels([*trials, *trials[:2]]) == trial_labels(trials)  # each counts once
