"""The data dictionary: every column of a table has a type, a meaning, an origin, and a unit where it has one."""

import re
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.analysis.columns import NUMBER, OTHER, TEXT, WHOLE, axis_label, column_of
from orchestrator.analysis.dictionary import describe, page
from orchestrator.analysis.table import trial_table
from orchestrator.errors import UserError
from orchestrator.spec.measures import MEASURES, value_keys
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun

SWEEP = Sweep.model_validate(
    {
        "name": "x",
        "grid": {"methods": ["at"], "seeds": [0]},
        "evaluation": {
            "measures": [name for name in MEASURES.names() if name in {"robustness", "worst_flatness", "wci"}]
        },
    }
)
KEYS = value_keys(SWEEP.evaluation.measures)
ORIGIN = {key: measure for measure in SWEEP.evaluation.measures for key in value_keys([measure])}
MORE = {"train/loss": 1.0, "train/lr": 0.1, "validation/robust_error": 0.5, "cost/train_seconds": 3.0}
COSTS = {"cost/robustness_seconds": 3.0, "cost/robustness_passes": 9.0}
TAGS = {"state": "finished", "trial_id": SWEEP.trials()[0].trial_id, "evaluation_id": SWEEP.evaluation.evaluation_id}
RUN = TrialRun.of("r", "FINISHED", {**TAGS, "ray_version": "2"}, dict.fromkeys(KEYS, 0.5) | MORE | COSTS, {}, 0, 0)
TABLE = trial_table(SWEEP, [RUN])


def test_every_column_has_a_meaning() -> None:
    found = describe(TABLE)
    assert list(found.index) == list(TABLE.columns)
    assert (found["meaning"].str.len() > 0).all()
    assert (found["source"].str.len() > 0).all()
    assert not [name for name in TABLE if column_of(name, ORIGIN.get(name)).group == OTHER]


def test_types_are_those_of_the_table() -> None:
    kinds = {TEXT: lambda column: column.map(lambda value: isinstance(value, str)).all()}
    kinds |= {WHOLE: pd.api.types.is_integer_dtype, NUMBER: pd.api.types.is_float_dtype}
    for name, kind in describe(TABLE)["type"].items():
        assert kinds[kind](TABLE[name]), (name, kind, TABLE[name].dtype)


def test_every_value_of_every_measure_is_known_by_its_measure() -> None:
    for name in MEASURES.names():
        measure = MEASURES.parse(name)
        for key in value_keys([measure]):
            found = column_of(key, measure)
            assert (found.name, found.group, found.source) == (key, name, f"measure {name}") and found.meaning, key


def test_the_page_is_up_to_date() -> None:
    file = Path(__file__).parents[2] / "docs" / "table.md"
    assert file.read_text() == page(), "run: python -m orchestrator.analysis.dictionary > docs/table.md"
    assert all(f"| `{name}` |" in page() for name in TABLE if not name.endswith("_se"))


def test_values_say_their_measure_in_the_vocabularys_words() -> None:
    found = describe(TABLE).loc
    assert found["robust_loss_gap", "measure"] == "robustness"
    assert "both gaps" in str(found["robust_loss_gap", "meaning"]) and "nats" in str(
        found["robust_loss_gap", "meaning"]
    )
    error = found["robust_loss_gap_se"]
    assert (error["type"], error["unit"], error["measure"]) == ("number", "nats", "robustness")
    assert str(error["meaning"]).startswith("Standard error of robust_loss_gap.")
    assert found["worst_flatness_xi0.003", "unit"] == "nats"
    assert "Weight-Curvature" in str(found["wci", "meaning"]) and found["wci", "unit"] == ""
    assert (found["train_loss", "unit"], found["train_loss", "measure"]) == ("nats", "")
    assert found["cost_robustness_passes", "unit"] == "passes"
    assert found["ray_version", "meaning"] == "Version of ray that made the run."


def test_units_agree_with_what_the_vocabulary_says() -> None:
    """A unit is given only where the measure's own words name it."""
    for name in MEASURES.names():
        measure = MEASURES.parse(name)
        says = " ".join((type(measure).keys.__doc__ or "").split())
        for key in value_keys([measure]):
            if found := column_of(key, measure).unit:
                assert re.search(found, says), (key, found, says)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        *(("average_flatness_xi0.5_se", "nats"), ("average_flatness_xi0.5_error", "fraction")),
        *(("average_flatness_xi0.5_filter_error_train", "fraction"), ("worst_flatness_xi0.003_train", "nats")),
        *(("input_linearity_error_clean", ""), ("relative_flatness", ""), ("train_lr", ""), ("train_seconds", "s")),
        *(("epoch", "epochs"), ("validation_robust_error", "fraction"), ("autoattack_error_gap_se", "fraction")),
    ],
)
def test_units(column: str, expected: str) -> None:
    assert column_of(column).unit == expected
    assert axis_label(column).endswith(f" ({expected})") == bool(expected)


def test_without_attrs_the_evaluation_has_to_be_given() -> None:
    bare = TABLE.copy()
    bare.attrs = {}
    with pytest.raises(UserError, match="lost its attrs"):
        describe(bare)
    assert describe(bare, SWEEP.evaluation).equals(describe(TABLE))
