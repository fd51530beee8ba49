"""The robust sign-error against a loop over pairs of settings, its weights by hand, and tables where there is none."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis import sign_error
from orchestrator.analysis.axes import varied_axes
from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.sign_error import comparisons, environments, examples_behind, robust_sign_error
from tests.analysis.tables import MEASURE, grid

AXES = ("method", "regularizer", "setting", "checkpoint")
ERROR = "robust_error_test"


def hoeffding(difference, n):
    h = max(0, 1 - 2 * math.exp(-2 * n * (abs(difference) / 2) ** 2)) ** 2
    return max(0, h - 0.5)


def normal(difference, *errors):
    h = math.prod(1 - 2 * stats.norm.sf(abs(difference) / 2 / error) for error in errors)
    return max(0, h - 0.5)


def brute_force(table, target, weight, min_effective):
    """Every pair of settings that differ in one thing; every pair of their networks."""
    found = {}
    settings = dict(list(table.groupby(list(AXES))))
    for (first, a), (second, b) in itertools.combinations(settings.items(), 2):
        differing = [axis for axis, one, other in zip(AXES, first, second, strict=True) if one != other]
        if len(differing) != 1 or differing == ["checkpoint"]:
            continue
        weights, errors = [], []
        for (_, one), (_, other) in itertools.product(a.iterrows(), b.iterrows()):
            dx, dy = one[MEASURE] - other[MEASURE], one[target] - other[target]
            if not math.isfinite(dx) or not math.isfinite(dy):
                continue
            weights.append(weight(one, other))
            errors.append((1 - np.sign(dx) * np.sign(dy)) / 2)
        total, squares = sum(weights), sum(w**2 for w in weights)
        if total and total**2 / squares >= min_effective:
            found[first, second] = sum(w * e for w, e in zip(weights, errors, strict=True)) / total
    return found


def table_of(seeds=4, n=400, **columns):
    table = grid(["at", "trades(beta=1)", "mart"], ["none", "awp"], ["", "lr=0.2"], seeds, ("last", "best"), **columns)
    generator = np.random.default_rng(5)
    table[ERROR] = generator.integers(100, 250, size=len(table)) / n
    table[f"{ERROR}_se"] = np.sqrt(table[ERROR] * (1 - table[ERROR]) / (n - 1))
    table["robust_loss_test"] = table[ERROR] + 0.1 * generator.normal(size=len(table))
    table["robust_loss_test_se"] = generator.uniform(0.01, 0.05, size=len(table))
    table[MEASURE] = table[ERROR] + 0.1 * generator.normal(size=len(table)).round(1)  # some ties
    return table


def found_in(table, target, min_effective):
    return correlate(table, [MEASURE], [target], resamples=5, min_effective=min_effective).pairs[0].sign_error


@pytest.mark.parametrize("min_effective", [1, 6, 12])
def test_an_error_is_weighed_by_hoeffding(min_effective):
    table = table_of()
    table.loc[7, MEASURE] = np.nan
    expected = brute_force(table, ERROR, lambda a, b: hoeffding(a[ERROR] - b[ERROR], 400), min_effective)
    got = found_in(table, ERROR, min_effective)
    assert got.noise == "hoeffding"
    assert got.environments == len(expected) > 0
    assert got.maximum == pytest.approx(max(expected.values()))
    assert got.percentile_90 == pytest.approx(np.quantile(list(expected.values()), 0.9))
    assert got.environments + got.dropped == 2 * (2 * 2 * 3 + 3 * 2 * 1 + 3 * 2 * 1)


@pytest.mark.parametrize("min_effective", [1, 5, 9, 11.5])
def test_settings_with_unequal_numbers_of_networks(min_effective):
    """From one to five seeds in a setting, with every weight 1: how many are kept follows from their numbers alone."""
    table = (
        table_of(seeds=5).drop(columns="robust_loss_test_se").sample(frac=0.6, random_state=3).reset_index(drop=True)
    )
    expected = brute_force(table, "robust_loss_test", lambda a, b: 1.0, min_effective)
    settings = [first for first, _ in table.groupby(list(AXES))]
    together = [
        sum(one != other for one, other in zip(a, b, strict=True)) == 1 and a[3] == b[3]
        for a, b in itertools.combinations(settings, 2)
    ]
    got = found_in(table, "robust_loss_test", min_effective)
    assert got.environments == len(expected) > 0
    assert got.environments + got.dropped == sum(together)
    assert got.maximum == pytest.approx(max(expected.values()))
    assert got.percentile_90 == pytest.approx(np.quantile(list(expected.values()), 0.9))


def test_a_loss_is_weighed_by_its_standard_errors():
    table, target = table_of(), "robust_loss_test"

    def weight(a, b):
        return normal(a[target] - b[target], a[f"{target}_se"], b[f"{target}_se"])

    expected = brute_force(table, target, weight, 12)
    got = found_in(table, target, 12)
    assert got.noise == "normal"
    assert got.environments == len(expected) > 0
    assert got.maximum == pytest.approx(max(expected.values()))


def test_without_standard_errors_every_pair_counts():
    table = table_of().drop(columns="robust_loss_test_se")
    expected = brute_force(table, "robust_loss_test", lambda a, b: 1.0, 12)
    got = found_in(table, "robust_loss_test", 12)
    assert (got.noise, got.environments, got.dropped) == ("none", len(expected), 0)
    assert got.maximum == pytest.approx(max(expected.values()))


def test_the_worst_environment_is_named():
    """All goes well but from `none` to `awp` under `mart`."""
    table = grid(["at", "mart"], ["none", "awp"], ["", "lr=0.2"], 4)
    generator = np.random.default_rng(0)
    table[ERROR] = 0.3 * (table["method"] == "mart") + 0.2 * (table["regularizer"] == "awp")
    table[ERROR] += 0.1 * (table["setting"] == "lr=0.2") + 0.001 * generator.normal(size=len(table))
    wrong = (table["method"] == "mart") & (table["regularizer"] == "awp") & (table["setting"] == "")
    table[MEASURE] = np.where(wrong, table[ERROR] - 0.25, table[ERROR])
    got = found_in(table, ERROR, 12)
    assert got.worst == "none -> awp | mart | lr=usual"
    assert got.maximum == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_measure_that_orders_as_the_target_does_is_never_wrong(sign):
    table = table_of()
    table[MEASURE] = sign * table["robust_loss_test"]
    got = found_in(table, "robust_loss_test", 12)
    assert got.maximum == got.percentile_90 == (1 - sign) / 2


def test_a_constant_measure_is_a_coin():
    table = table_of(**{MEASURE: 1.0})
    found = environments(table, varied_axes(table), [np.zeros(len(table), dtype=int)])
    compared = comparisons(table["robust_loss_test"].to_numpy(), found, None, None)
    assert robust_sign_error(np.ones(len(table)), found, compared).maximum == 0.5


def test_three_seeds_are_too_few_and_that_is_said():
    got = found_in(table_of(seeds=3), ERROR, 12)
    assert got.maximum is None
    assert got.reason == (
        "two settings have at most 9 pairs of networks, and 12 effective ones are needed: run more seeds"
    )
    assert got.dropped == 2 * (12 + 6 + 6)
    assert found_in(table_of(seeds=3), ERROR, 2).maximum is not None


def test_differences_within_the_noise_are_no_evidence():
    table = table_of()
    table[ERROR] = 0.3 + 0.001 * np.arange(len(table)) / len(table)
    got = found_in(table, ERROR, 12)
    assert (got.maximum, got.reason) == (
        None,
        "no two settings have 12 effective pairs: the target differs too little for its noise",
    )


def test_settings_that_differ_in_two_things_are_no_environment():
    table = grid(["at"], ["none"], seeds=4)
    other = grid(["mart"], ["awp"], seeds=4)
    other["trial_id"] = "u" + other["trial_id"]
    got = found_in(table.merge(other, how="outer").assign(**{ERROR: np.linspace(0, 1, 8)}), ERROR, 12)
    assert got.reason == "no two settings differ along one axis alone"


def test_too_many_pairs_are_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr(sign_error, "MAX_PAIRS", 50)
    got = found_in(table_of(), ERROR, 12)
    assert got.maximum is None
    assert "more than 50 pairs" in got.reason


def test_examples_behind_an_error():
    table = table_of(n=800)
    assert examples_behind(table, ERROR) == pytest.approx(800)
    p = np.full(len(table), 0.1)
    train = {"robust_error_train": p, "robust_error_train_se": np.sqrt(p * (1 - p) / 199)}
    gap = table.assign(**train, robust_error_gap=table[ERROR] - p)
    assert examples_behind(gap, "robust_error_gap") == pytest.approx(1 / (1 / 800 + 1 / 200))
    assert examples_behind(gap, "robust_loss_gap") is None
    assert examples_behind(table.drop(columns=f"{ERROR}_se"), ERROR) is None
    assert examples_behind(table.drop(columns=f"{ERROR}_se").assign(robust_error_gap=0.1), "robust_error_gap") is None
    assert examples_behind(table.assign(**{ERROR: 0.0, f"{ERROR}_se": 0.0}), ERROR) is None
