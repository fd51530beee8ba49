"""Two tables compared network by network, against numbers worked out by hand and resamples made of copies."""

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from orchestrator.analysis.comparison import (
    compare,
    paired_trials,
    resampled_means,
    setting_differences,
)
from orchestrator.analysis.render_comparison import render_comparison
from orchestrator.errors import UserError
from orchestrator.spec.sweep import Sweep

GAP = "robust_loss_gap"


def row(method: str, seed: int, gap: float | None, **more: Any) -> dict[str, Any]:
    base = {"trial_id": f"{method}{seed}", "checkpoint": "last", "epoch": 3, "method": method, "method_name": method}
    base |= {"regularizer": "none", "setting": "", "seed": seed, "state": "finished", "attempt": 1, GAP: gap}
    return base | more


def table(*rows: dict[str, Any], sweep: str = "", evaluation: str | None = None) -> pd.DataFrame:
    made = pd.DataFrame(rows)
    made.attrs = {"sweep": sweep} | ({"evaluation_id": evaluation} if evaluation else {})
    return made


A = table(row("at", 0, 0.5), row("at", 1, 0.75), row("trades", 0, 0.25), row("trades", 1, 0.5), sweep="one")
B = table(row("trades", 1, 0.25), row("trades", 0, 0.125), row("at", 0, 0.25), row("at", 1, 0.625), sweep="two")


def test_differences_by_hand() -> None:
    found = compare(A, B, resamples=500)
    (only,) = found.differences
    assert (found.a, found.b, found.pairs, found.cells, found.unpaired) == ("one", "two", 4, 2, ())
    assert (only.measure, only.checkpoint, only.pairs, only.cells) == (GAP, "last", 4, 2)
    assert (only.mean_a, only.mean_b, only.difference) == (0.5, 0.3125, -0.1875)
    # two cells of equal size, both with a mean of -0.1875: every resample has the same mean
    assert only.low == only.high == -0.1875
    assert found.answer == (
        "Over 4 pairs of last networks in 2 cells, robust_loss_gap is lower in two than in one: "
        "by -0.188 [-0.188, -0.188]."
    )


def test_the_other_way_round_is_the_opposite() -> None:
    there, back = compare(A, B.assign(**{GAP: B[GAP] ** 2})), compare(B.assign(**{GAP: B[GAP] ** 2}), A)
    assert back.differences[0].difference == -(there.differences[0].difference or 0)
    assert (back.differences[0].low, back.differences[0].high) == pytest.approx(
        (-(there.differences[0].high or 0), -(there.differences[0].low or 0))
    )
    assert "higher in one than in two" in back.answer


def test_resampled_means_are_those_of_samples_with_copies() -> None:
    random = np.random.default_rng(0)
    cells = np.array([0, 0, 0, 1, 2, 2])
    values = random.normal(size=6)
    every = np.array([np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)])
    for counts, mean in zip(every, resampled_means(values, cells, every), strict=True):
        copies = [value for cell in range(3) for _ in range(counts[cell]) for value in values[cells == cell]]
        assert mean == pytest.approx(np.mean(copies), rel=1e-12)


def test_the_interval_is_that_of_whole_cells() -> None:
    shifts = {"at": 0.0, "trades": 1.0, "mart": 2.0, "awp": 3.0}
    rows = [(method, seed) for method in shifts for seed in range(5)]
    a = table(*(row(method, seed, 0.0) for method, seed in rows))
    b = table(*(row(method, seed, shifts[method]) for method, seed in rows))
    (found,) = compare(a, b, resamples=20_000).differences
    # the mean of 4 draws from {0, 1, 2, 3}: all 256 sums, each as likely
    sums = np.sort([sum(draw) / 4 for draw in itertools.product(range(4), repeat=4)])
    assert (found.low, found.high) == (sums[int(0.025 * 256)], sums[int(0.975 * 256)])
    assert found.difference == 1.5 and found.cells == 4


def test_last_and_best_networks_are_compared_apart() -> None:
    best_a = [row(method, 0, 1.0, checkpoint="best", epoch=2) for method in ("at", "trades")]
    best_b = [row("at", 0, 3.0, checkpoint="best", epoch=1), row("at", 0, 9.0, checkpoint="epoch 1", epoch=1)]
    found = compare(table(*A.to_dict("records"), *best_a), table(*B.to_dict("records"), *best_b))
    assert [(each.checkpoint, each.pairs, each.difference) for each in found.differences] == [
        ("last", 4, -0.1875),
        ("best", 1, 2.0),
    ]
    assert found.differences[1].reason == "all pairs are in one cell, and the interval resamples cells"
    assert found.unpaired == ("trades | none | seed 0 | best: only in A, B has no such network",)


def test_what_has_no_partner_is_listed() -> None:
    a = table(row("at", 0, 0.5), row("at", 1, 0.5), row("mart", 0, 0.5), row("trades", 0, 1.0, state="failed"))
    b = table(row("at", 0, 0.25), row("at", 1, None, state="running"), row("trades", 0, 1.0), row("trades", 0, 2.0))
    found = compare(a, b, names=("old", "new"))
    assert found.pairs == 1
    assert found.unpaired == (
        "at | none | seed 1: only in old, it is running in new",
        "mart | none | seed 0: only in old, new has no such network",
        "trades | none | seed 0: only in new, it is failed in old",
        "trades | none | seed 0: is in new more than once, the first is compared",
    )
    nothing = compare(a, table(row("wci", 0, 1.0)))
    assert nothing.answer == "No network of A has a partner in B." and nothing.differences == ()
    json.dumps(nothing.as_dict(), allow_nan=False)


def test_values_that_are_missing_are_left_out_of_their_measure_only() -> None:
    a = A.assign(other=[1.0, np.nan, np.inf, 4.0], none=np.nan, train_loss=1.0, other_se=1.0)
    b = B.assign(other=[8.0, 3.0, 2.0, 1.0], none=1.0, train_loss=2.0, other_se=1.0)
    found = {each.measure: each for each in compare(a, b).differences}
    assert list(found) == [GAP, "other", "none"]
    assert (found["other"].pairs, found["other"].difference) == (2, 2.5)
    assert found["none"].reason == "no pair has two values" and found["none"].difference is None
    assert "No answer on none" in found["none"].sentence("a", "b")
    (chosen,) = compare(a, b, ["train_loss"]).differences
    assert chosen.difference == 1.0


@pytest.mark.parametrize("name", ["robust_los_gap", "method", "seed"])
def test_a_column_that_cannot_be_compared(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is no column of numbers in both tables"):
        compare(A, B, [name])
    with pytest.raises(UserError, match="no measured value in common"):
        compare(A.drop(columns=GAP), B)


def test_sentences_claim_no_more_than_the_interval() -> None:
    b = A.assign(**{GAP: A[GAP] + np.array([1.0, 1.0, -1.0, -1.0])})
    assert "it stays open whether robust_loss_gap differs" in compare(A, b).answer
    same = compare(A, A, names=("x", "x (3f2a)"))
    assert same.answer.endswith("robust_loss_gap is the same in x and x (3f2a).")
    assert "4 pairs of 4: one and the same network on both sides." in same.notes


def test_other_settings_are_said() -> None:
    a, b = table(row("at", 0, 0.5), evaluation="aa"), table(row("at", 0, 0.5), evaluation="bb")
    assert compare(a, b).notes[0].startswith("Measured with different settings, aa and bb")
    assert not [note for note in compare(a, a).notes if "settings" in note]


def test_settings_that_differ_are_found() -> None:
    def sweep(**training: Any) -> Sweep:
        grid = {"methods": ["at", "trades"], "seeds": [0, 1]}
        return Sweep.model_validate({"name": "x", "training": training, "grid": grid})

    a, b = sweep(epochs=30), sweep(epochs=60, batch_size=50)
    trials = [{trial.trial_id: trial for trial in each.trials()} for each in (a, b)]
    pairs = list(zip(*trials, strict=True))
    lines = setting_differences(*trials, [*pairs, ("elsewhere", "elsewhere too")], ("old", "new"))
    batch = Sweep.model_validate(a.model_dump(mode="json")).training[0].batch_size
    assert sorted(lines) == [
        f"training.batch_size: {batch} in old, 50 in new (4 pairs)",
        "training.epochs: 30 in old, 60 in new (4 pairs)",
    ]
    assert setting_differences(trials[0], trials[0], [(key, key) for key in trials[0]], ("a", "b")) == []


def test_pairs_of_trials() -> None:
    assert sorted(paired_trials(A, B)) == [(name, name) for name in ("at0", "at1", "trades0", "trades1")]


def test_it_can_be_read() -> None:
    console = Console(width=120, record=True)
    console.print(render_comparison(compare(A, table(row("at", 0, 0.25), row("mart", 0, 0.25), sweep="two"))))
    said = console.export_text()
    assert said.startswith("Over 1 pair of last networks in 1 cell, robust_loss_gap of two minus one is -0.25")
    assert "unpaired: at | none | seed 1: only in one, two has no such network" in said
    console.print(render_comparison(compare(A, B)))
    assert "95 % bootstrap interval, 2000 resamples of whole cells." in console.export_text()
