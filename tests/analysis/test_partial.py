"""Partial correlations against residuals, and their intervals."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.partial import partial_correlation
from tests.analysis.tables import MEASURE, TARGET, grid

TRAIN = "robust_loss_train"


def residuals(values, z):
    design = np.stack([np.ones_like(z), z], axis=1)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def confounded(seed=0, **more):
    """Measure and target have nothing in common but the training loss."""
    generator = np.random.default_rng(seed)
    table = grid([f"m{i}" for i in range(30)], seeds=2)
    train = generator.normal(size=60)
    x, y = (train + 0.5 * generator.normal(size=60) for _ in range(2))
    return table.assign(**{TRAIN: train, MEASURE: x, TARGET: y}, **more)


def test_they_are_correlations_of_residuals():
    table = confounded()
    pair = correlate(table, [MEASURE], [TARGET], resamples=50).pairs[0]
    for item, columns in (
        (pair.partial_pearson, table[[MEASURE, TARGET, TRAIN]].to_numpy().T),
        (pair.partial_spearman, table[[MEASURE, TARGET, TRAIN]].rank().to_numpy().T),
    ):
        x, y, z = columns
        assert item.value == pytest.approx(stats.pearsonr(residuals(x, z), residuals(y, z)).statistic)


def test_a_common_cause_is_taken_out():
    pair = correlate(confounded(), [MEASURE], [TARGET]).pairs[0]
    assert pair.pearson.low > 0.5
    assert pair.partial_pearson.low < 0 < pair.partial_pearson.high
    assert pair.partial_spearman.low < 0 < pair.partial_spearman.high


def test_the_gap_and_the_test_loss_have_one_partial_pearson_correlation():
    """The gap is test minus train: given train, both are the same variable."""
    table = confounded()
    table["robust_loss_test"] = table[TARGET] + table[TRAIN]
    gap, test = correlate(table, [MEASURE], [TARGET, "robust_loss_test"]).pairs
    assert gap.partial_pearson.value == pytest.approx(test.partial_pearson.value)
    assert gap.partial_pearson.low == pytest.approx(test.partial_pearson.low)
    assert gap.pearson.value != pytest.approx(test.pearson.value, abs=0.01)


def test_interval_is_that_of_real_resamples():
    table = confounded()
    pair = correlate(table, [MEASURE], [TARGET], resamples=200, seed=5).pairs[0]
    counts = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=200)
    order = sorted(table["method"].unique())
    z = []
    for count in counts:
        rows = np.concatenate(
            [np.repeat(table.index[table["method"] == name], n) for name, n in zip(order, count, strict=True)]
        )
        x, y, train = table.loc[rows, [MEASURE, TARGET, TRAIN]].to_numpy().T
        z.append(np.arctanh(stats.pearsonr(residuals(x, train), residuals(y, train)).statistic))
    low, high = np.quantile(z, stats.norm.cdf([-1, 1]))
    half = stats.t(29).ppf(0.975) * (high - low) / 2 * np.sqrt(30 / 29)
    expected = np.tanh(np.arctanh(pair.partial_pearson.value) + np.array([-half, half]))
    assert [pair.partial_pearson.low, pair.partial_pearson.high] == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("table", "columns", "reason"),
    [
        (confounded().drop(columns=TRAIN), [TARGET], f"the table has no {TRAIN}"),
        (confounded(), [TRAIN], f"{TRAIN} is what would be held"),
        (confounded().assign(**{TRAIN: 1.0}), [TARGET], "one and the same value"),
        (confounded().assign(**{TRAIN: lambda t: 2 * t[MEASURE] + 1}), [TARGET], "entirely"),
        (confounded().assign(**{TRAIN: np.nan}), [TARGET], "0 usable networks"),
    ],
)
def test_without_a_value(table, columns, reason):
    item = correlate(table, [MEASURE], columns, resamples=20).pairs[0].partial_pearson
    assert item.value is None
    assert reason in item.reason


def test_networks_without_a_training_loss_are_left_out_of_it_alone():
    table = confounded()
    table.loc[:9, TRAIN] = np.nan
    found = correlate(table, [MEASURE], [TARGET], resamples=50)
    pair = found.pairs[0]
    assert pair.networks == 60
    assert f"10 networks without {TRAIN}: coefficients given it do not use them." in found.notes
    x, y, z = table.loc[10:, [MEASURE, TARGET, TRAIN]].to_numpy().T
    assert pair.partial_pearson.value == pytest.approx(stats.pearsonr(residuals(x, z), residuals(y, z)).statistic)


def test_what_the_third_variable_explains_entirely_has_no_value():
    got = partial_correlation(np.array([0.5, 0.5, -0.3]), np.array([1.0, 0.2, -0.2]), np.array([0.5, 1.0, 0.2]))
    assert np.isnan(got[:2]).all()
    assert got[2] == pytest.approx((-0.3 + 0.04) / 0.96)
