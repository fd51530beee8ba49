"""The data dictionary: every column of a table has a meaning, and a unit where it has one."""

import re

import pytest

from orchestrator.analysis.dictionary import MEANINGS, describe, unit
from orchestrator.analysis.table import SETTINGS, STATES, trial_table
from orchestrator.errors import UserError
from orchestrator.spec.measures import MEASURES
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import TrialRun

SWEEP = Sweep.model_validate(
    {
        "name": "x",
        "grid": {"methods": ["at"], "seeds": [0]},
        "evaluation": {
            "measures": [name for name in MEASURES.names() if name in {"robustness", "worst_flatness", "wci"}]
        },
    }
)
KEYS = [key for measure in SWEEP.evaluation.measures for key in measure.keys()]  # noqa: SIM118
MORE = {"train/loss": 1.0, "train/lr": 0.1, "validation/robust_error": 0.5, "cost/train_seconds": 3.0}
COSTS = {"cost/robustness_seconds": 3.0, "cost/robustness_passes": 9.0}
TAGS = {"state": "finished", "trial_id": SWEEP.trials()[0].trial_id, "evaluation_id": SWEEP.evaluation.evaluation_id}
RUN = TrialRun.of("r", "FINISHED", {**TAGS, "ray_version": "2"}, dict.fromkeys(KEYS, 0.5) | MORE | COSTS, {}, 0, 0)
TABLE = trial_table(SWEEP, [RUN])


def test_every_column_has_a_meaning() -> None:
    found = describe(TABLE)
    assert list(found.index) == list(TABLE.columns)
    assert (found["meaning"].str.len() > 0).all()
    assert not (found["meaning"] == "recorded by the trial").any()
    assert {*SETTINGS, *STATES} <= set(MEANINGS)


def test_values_say_their_measure_in_the_vocabularys_words() -> None:
    found = describe(TABLE).loc
    assert found["robust_loss_gap", "measure"] == "robustness"
    assert "both gaps" in str(found["robust_loss_gap", "meaning"]) and "nats" in str(
        found["robust_loss_gap", "meaning"]
    )
    assert tuple(found["robust_loss_gap_se"])[1:] == ("nats", "robustness")
    assert found["worst_flatness_xi0.003", "unit"] == "nats"
    assert "Weight-Curvature" in str(found["wci", "meaning"]) and found["wci", "unit"] == ""
    assert (found["train_loss", "unit"], found["train_loss", "measure"]) == ("nats", "")
    assert found["cost_robustness_passes", "unit"] == "forward-backward passes of one image"
    assert found["ray_version", "meaning"] == "version of ray that made the run"


def test_units_agree_with_what_the_vocabulary_says() -> None:
    """A unit is given only where the measure's own words name it."""
    for name in MEASURES.names():
        measure = MEASURES.parse(name)
        says = " ".join((type(measure).keys.__doc__ or "").split())
        for key in measure.keys():  # noqa: SIM118
            if found := unit(key):
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
    assert unit(column) == expected


def test_without_attrs_the_evaluation_has_to_be_given() -> None:
    bare = TABLE.copy()
    bare.attrs = {}
    with pytest.raises(UserError, match="lost its attrs"):
        describe(bare)
    assert describe(bare, SWEEP.evaluation).equals(describe(TABLE))
