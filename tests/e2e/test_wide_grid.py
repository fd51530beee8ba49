"""Nine methods by seven regularisers in one sweep: every cell of it ends well."""

from pathlib import Path

import pytest

from tests.e2e.sweeping import ATTACK, Place

METHODS = [
    "standard",
    "at",
    "trades",
    "mart",
    "awp",
    "advlc",
    {"name": "free", "replays": 2},
    "self_supervision",
    {"name": "unlabeled", "over": "trades"},
]
REGULARIZERS = [
    "none",
    {"name": "label_noise", "rate": 0.3},
    {"name": "weight_clipping", "bound": 0.1},
    ["autoaugment", {"name": "cutout", "size": 4}],
    {"name": "weight_averaging", "decay": 0.9},
    {"name": "entropy_sgd", "steps": 2},
    "sam",
]


@pytest.mark.slow
def test_every_cell_of_a_wide_grid_finishes(tmp_path: Path) -> None:
    place = Place(
        tmp_path,
        "wide",
        data={"name": "digits", "train_size": 200, "unlabeled": {"size": 100}},
        model={"name": "small_preact_resnet", "width": 4},
        grid={"methods": METHODS, "regularizers": REGULARIZERS, "seeds": [0]},
        evaluation={
            "measures": [
                {"name": "robustness", "attack": ATTACK, "train_examples": 50, "test_examples": 50},
                {"name": "average_flatness", "draws": 1, "examples": 50, "attack": ATTACK},
            ]
        },
    )
    done = place.run("submit", timeout=580)
    assert done.returncode == 0, place.output("stdout")[-3000:]
    runs = place.recorded()
    assert len(place.trials()) == len(METHODS) * len(REGULARIZERS) == 63
    assert place.sweep.teachers() == [], "the standard cell without a regulariser is the teacher"
    assert set(runs) == set(place.trials())
    assert {run.tag("state") for run in runs.values()} == {"finished"}
    assert {run.tag("attempt") for run in runs.values()} == {"1"}
    for run in runs.values():
        assert abs(run.metrics["robust_loss_gap"]) < 10 and run.metrics["average_flatness_xi0.5"] > -1
