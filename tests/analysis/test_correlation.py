"""Coefficients against scipy and brute force, intervals against what a cluster bootstrap must do, and bad tables."""

import io
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from orchestrator.analysis.correlation import CorrelationResult, correlate, usable_rows
from orchestrator.analysis.render import render
from orchestrator.errors import UserError

MEASURE = "average_flatness_xi0.5"
TARGET = "robust_loss_gap"


def table_of(x, y, cells, **columns):
    """One trial per value; a cell number becomes a method, trials of a cell its seeds."""
    seeds = pd.Series(cells).groupby(cells).cumcount().to_list()
    data = {
        "trial_id": [f"t{i}" for i in range(len(x))],
        "checkpoint": "last",
        "method": [f"trades(beta={cell})" for cell in cells],
        "method_name": "trades",
        "regularizer": "none",
        "setting": "",
        "seed": seeds,
        MEASURE: np.asarray(x, dtype=float),
        TARGET: np.asarray(y, dtype=float),
    }
    return pd.DataFrame(data | columns)


def clustered(generator, cells, seeds, rho=0.9, shared=0.5):
    """Gaussian cells and seeds; the correlation of two values of one trial is rho * shared."""
    cell = np.repeat(np.arange(cells), seeds)
    means = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=cells)[cell]
    x, y = (math.sqrt(shared) * means + math.sqrt(1 - shared) * generator.normal(size=(cells * seeds, 2))).T
    return table_of(x, y, cell)


def only_pair(table, **settings):
    result = correlate(table, [MEASURE], [TARGET], **settings)
    assert len(result.pairs) == 1
    return result.pairs[0]


def coefficients(pair):
    return pair.pearson, pair.spearman, pair.kendall


def shown(result: CorrelationResult, width=200) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render(result))
    return console.export_text()


class TestCoefficients:
    def test_point_estimates_by_brute_force(self):
        x, y = np.array([1.0, 2, 2, 4, 5]), np.array([1.0, 3, 2, 2, 7])
        sign = [
            (np.sign(a - b), np.sign(c - d)) for (a, c), (b, d) in itertools.combinations(zip(x, y, strict=True), 2)
        ]
        tau = sum(a * b for a, b in sign) / math.sqrt(sum(a * a for a, _ in sign) * sum(b * b for _, b in sign))
        pair = only_pair(table_of(x, y, [0, 1, 2, 3, 4]))
        assert pair.kendall.value == pytest.approx(tau)
        assert pair.pearson.value == pytest.approx(np.corrcoef(x, y)[0, 1])
        ranks = [1, 2.5, 2.5, 4, 5], [1, 4, 2.5, 2.5, 5]
        assert pair.spearman.value == pytest.approx(np.corrcoef(*ranks)[0, 1])

    def test_spread_by_hand(self):
        table = table_of([1, 3, 10, 14], [0, 1, 2, 3], [0, 0, 1, 1])
        spread = correlate(table).spreads[0]
        assert (spread.column, spread.networks, spread.cells) == (MEASURE, 4, 2)
        assert spread.within_cell_sd == pytest.approx(math.sqrt((2 + 8) / 2))
        assert spread.between_cell_sd == pytest.approx(10 / math.sqrt(2))

    def test_default_pairs_put_the_loss_gap_first(self):
        generator = np.random.default_rng(0)
        names = ["robust_error_gap", f"{MEASURE}_se", "worst_flatness_xi0.003", "clean_loss_gap", "robust_loss_test"]
        table = clustered(generator, 4, 2).assign(**{name: generator.normal(size=8) for name in names})
        pairs = correlate(table, resamples=10).pairs
        assert [(pair.target, pair.measure) for pair in pairs] == [
            (target, measure)
            for target in (TARGET, "robust_error_gap", "robust_loss_test")
            for measure in (MEASURE, "worst_flatness_xi0.003")
        ]


class TestInterval:
    def test_copies_of_seeds_do_not_shrink_it(self):
        """Copies of seeds bring no cells, so the interval stays the same; resampling rows would shrink it."""
        table = clustered(np.random.default_rng(1), 8, 2)
        often = pd.concat([table] * 10, ignore_index=True)
        often["trial_id"] = [f"t{i}" for i in range(len(often))]
        for once, many in zip(coefficients(only_pair(table)), coefficients(only_pair(often)), strict=True):
            assert (many.low, many.high) == pytest.approx((once.low, once.high))

    def test_it_is_a_t_interval_from_real_resamples_of_whole_cells(self):
        table = clustered(np.random.default_rng(2), 5, 3)
        pair = only_pair(table, resamples=300, seed=7)
        counts = np.random.default_rng(7).multinomial(5, np.full(5, 1 / 5), size=300)
        groups = [group for _, group in table.groupby("method")]
        found = []
        for count in counts:
            sample = pd.concat([group for group, often in zip(groups, count, strict=True) for _ in range(often)])
            x, y = sample[MEASURE], sample[TARGET]
            found.append([f(x, y).statistic for f in (stats.pearsonr, stats.spearmanr, stats.kendalltau)])
        for item, samples in zip(coefficients(pair), np.array(found).T, strict=True):
            low, high = np.quantile(np.arctanh(samples), [0.15865525, 0.84134475])  # one sigma on each side
            half = stats.t(4).ppf(0.975) * (high - low) / 2 * math.sqrt(5 / 4)
            expected = [math.tanh(math.atanh(item.value) + sign * half) for sign in (-1, 1)]
            assert [item.low, item.high] == pytest.approx(expected, abs=1e-6)

    def test_regularizer_and_setting_are_part_of_the_cell(self):
        table = clustered(np.random.default_rng(0), 3, 4)
        assert only_pair(table, resamples=10).cells == 3
        table["regularizer"] = ["none", "awp"] * 6
        assert only_pair(table, resamples=10).cells == 6
        table["setting"] = (["lr=0.1"] * 2 + ["lr=0.2"] * 2) * 3
        assert only_pair(table, resamples=10).cells == 12

    def test_coverage_on_clustered_data(self):
        """200 tables of 12 cells x 3 seeds: nominal 95 % covers in 90-99 %. Rows as units cover in 63-73 %."""
        generator = np.random.default_rng(0)
        rho = 0.5
        truth = rho, 6 / math.pi * math.asin(rho / 2), 2 / math.pi * math.asin(rho)
        covered = np.zeros(3)
        for _ in range(200):
            pair = only_pair(clustered(generator, 12, 3, rho=rho / 0.95, shared=0.95), resamples=400)
            covered += [c.low <= value <= c.high for c, value in zip(coefficients(pair), truth, strict=True)]
        assert (covered / 200 > 0.90).all(), covered / 200
        assert (covered / 200 < 0.99).all(), covered / 200

    def test_same_seed_same_result(self):
        table = clustered(np.random.default_rng(0), 6, 2)
        assert correlate(table, seed=3) == correlate(table, seed=3)
        assert only_pair(table, seed=3).pearson != only_pair(table, seed=4).pearson

    def test_order_of_rows_does_not_matter(self):
        table = clustered(np.random.default_rng(0), 6, 3)
        mixed = table.sample(frac=1, random_state=0)
        for a, b in zip(coefficients(only_pair(table)), coefficients(only_pair(mixed)), strict=True):
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))

    def test_lower_level_is_narrower(self):
        table = clustered(np.random.default_rng(0), 10, 2)
        wide, narrow = only_pair(table).pearson, only_pair(table, level=0.5).pearson
        assert wide.low < narrow.low < narrow.high < wide.high

    def test_big_tables_are_quick_enough(self):
        generator = np.random.default_rng(0)
        table = clustered(generator, 100, 5).assign(robust_error_gap=generator.normal(size=500))
        assert correlate(table).networks == 500


class TestSentence:
    def test_clear_answer(self):
        result = correlate(clustered(np.random.default_rng(0), 20, 2, rho=0.99, shared=0.99))
        tau = result.pairs[0].kendall
        expected = f"goes with {MEASURE}: Kendall tau {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]."
        assert result.answer == f"Over 40 networks in 20 cells, {TARGET} {expected}"

    def test_against(self):
        table = clustered(np.random.default_rng(0), 20, 2, rho=-0.99, shared=0.99)
        assert f"{TARGET} goes against {MEASURE}" in correlate(table).answer

    def test_open(self):
        answer = correlate(clustered(np.random.default_rng(0), 8, 2, rho=0)).answer
        assert "it stays open whether" in answer
        assert "contains 0" in answer

    def test_the_rendering_shows_answer_numbers_and_notes(self):
        result = correlate(clustered(np.random.default_rng(0), 5, 2))
        text = shown(result)
        tau = result.pairs[0].kendall
        for part in (result.answer, f"[{tau.low:.2f}, {tau.high:.2f}]", "Kendall tau-b", "sharper", "few cells (5)"):
            assert part in text

    def test_the_table_fits_eighty_columns(self):
        text = shown(correlate(clustered(np.random.default_rng(0), 5, 2)), width=80)
        assert f"\n{MEASURE} " in text and all(len(line) <= 80 for line in text.splitlines())


class TestTables:
    def test_rows_left_out_are_listed(self):
        table = clustered(np.random.default_rng(0), 6, 2)
        table.loc[3, MEASURE] = np.nan
        table.loc[5, TARGET] = -np.inf
        table["worst_flatness_xi0.003"] = np.arange(12.0)
        result = correlate(table, resamples=50)
        assert [(item.trial_id, item.column, item.reason) for item in result.left_out] == [
            ("t3", MEASURE, "missing"),
            ("t5", TARGET, "infinite"),
        ]
        assert [pair.networks for pair in result.pairs] == [10, 11]
        assert "t3 (trades(beta=1) | none | seed 1)" in shown(result)

    def test_a_trial_twice_counts_once(self):
        table = clustered(np.random.default_rng(0), 6, 2)
        result = correlate(pd.concat([table, table.iloc[[4]]]), resamples=50)
        assert result.pairs == correlate(table, resamples=50).pairs
        assert [(item.trial_id, item.column) for item in result.left_out] == [("t4", None)]

    def test_the_same_cell_and_seed_in_two_trials_is_noted(self):
        table = clustered(np.random.default_rng(0), 6, 2)
        table.loc[1, "seed"] = 0
        assert any("is there 2 times" in note and "t0, t1" in note for note in correlate(table).notes)

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_too_few_trials(self, n):
        result = correlate(clustered(np.random.default_rng(0), 2, 1).iloc[:n])
        assert result.pairs[0].kendall.value is None
        assert "at least 3" in result.answer
        assert "at least 3" in shown(result)

    @pytest.mark.parametrize("column", [MEASURE, TARGET])
    def test_constant(self, column):
        table = clustered(np.random.default_rng(0), 6, 2)
        table[column] = 0.1 + 1e-17 * np.arange(12)
        result = correlate(table)
        assert all(item.value is None for item in coefficients(result.pairs[0]))
        assert f"{column} has one and the same value in all 12 networks" in result.answer

    def test_one_cell(self):
        result = correlate(clustered(np.random.default_rng(0), 1, 6))
        assert result.pairs[0].kendall.value is not None
        assert result.pairs[0].kendall.low is None
        assert "one cell" in result.answer
        assert result.spreads[0].between_cell_sd is None

    def test_one_seed_per_cell_has_no_seed_noise(self):
        spread = correlate(clustered(np.random.default_rng(0), 6, 1)).spreads[0]
        assert spread.within_cell_sd is None
        assert spread.reason == "no cell has two seeds"

    def test_constant_resamples_are_skipped_and_counted(self):
        result = correlate(table_of([1, 2, 3], [1, 3, 2], [0, 1, 2]), resamples=900, seed=0)
        item = result.pairs[0].kendall
        counts = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=900)
        assert item.skipped == (counts == 3).any(axis=1).sum() > 0
        assert any(f"{item.skipped} resamples skipped" in note for note in result.notes)

    def test_every_resample_constant(self):
        table = table_of([1, 2, 3], [1, 3, 2], [0, 1, 2])
        seed = next(s for s in range(99) if (np.random.default_rng(s).multinomial(3, np.full(3, 1 / 3)) == 3).any())
        item = only_pair(table, resamples=1, seed=seed).kendall
        assert (item.value is not None, item.low, item.skipped) == (True, None, 1)

    def test_an_interval_without_width_is_called_so(self):
        result = correlate(table_of([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]))
        assert any("every resample gives 1" in note for note in result.notes)

    def test_unknown_columns_name_the_nearest(self):
        table = clustered(np.random.default_rng(0), 3, 2)
        with pytest.raises(UserError, match=f"'average_flatnes_xi0.5'.*did you mean '{MEASURE}'"):
            correlate(table, ["average_flatnes_xi0.5"])
        with pytest.raises(UserError, match=f"did you mean '{TARGET}'"):
            correlate(table, targets=["robust_los_gap"])
        with pytest.raises(UserError, match="lacks the column 'seed'"):
            correlate(table.drop(columns="seed"))
        with pytest.raises(UserError, match="no measure"):
            correlate(table.drop(columns=MEASURE))
        with pytest.raises(UserError, match="text"):
            correlate(table, ["method"])

    @pytest.mark.parametrize("bad", [{"resamples": 0}, {"level": 1.0}, {"level": math.nan}, {"seed": -1}])
    def test_settings_out_of_range(self, bad):
        with pytest.raises(UserError, match="give"):
            correlate(clustered(np.random.default_rng(0), 3, 2), **bad)

    def test_missing_labels_get_a_cell(self):
        table = clustered(np.random.default_rng(0), 3, 2).assign(regularizer=None, setting=np.nan)
        rows, _ = usable_rows(table, [MEASURE])
        assert set(rows["regularizer"]) == {"none"}
        assert set(rows["setting"]) == {""}

    def test_the_table_is_not_changed(self):
        table = clustered(np.random.default_rng(0), 3, 2)
        table.loc[0, MEASURE] = np.inf
        before = table.copy()
        correlate(table)
        pd.testing.assert_frame_equal(table, before)

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_any_numbers_give_a_result_without_nan(self, data):
        n = data.draw(st.integers(0, 8))
        values = st.lists(
            st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 1e308, -1e308, 5e-324])), min_size=n, max_size=n
        )
        cells = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        result = correlate(table_of(data.draw(values), data.draw(values), cells), resamples=20)
        json.dumps(result.as_dict(), allow_nan=False)
        shown(result)
        for item in coefficients(result.pairs[0]):
            for number in (item.value, item.low, item.high):
                assert number is None or -1 <= number <= 1
            assert item.value is not None or item.reason
