"""Figures of landscapes: what is read from trials' folders is in the figures and beside them."""

import io
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis import answer as answer_module
from orchestrator.analysis.answer import answer, publish
from orchestrator.analysis.landscapes import BAND, contour_levels, draw_curves, draw_surface, landscapes, read
from orchestrator.analysis.table import trial_table
from orchestrator.spec.sweep import Sweep
from orchestrator.trial_run import TrialRun
from workers import layout

CURVES = {"name": "landscape", "points": 5, "draws": 2}
SURFACES = {"name": "landscape", "points": 3, "dimensions": 2}
EPOCHS = 10


def a_sweep(storage: Path, measures=(CURVES,), methods=("at", "trades"), early_stopping=False) -> Sweep:
    training = {"epochs": EPOCHS, **({"early_stopping": {}} if early_stopping else {})}
    return Sweep.model_validate(
        {
            "name": "x",
            "storage": str(storage),
            "training": training,
            "grid": {"methods": list(methods), "regularizers": ["none", "dropout"], "seeds": [0, 1]},
            "evaluation": {"measures": list(measures)},
        }
    )


def surface(measure, height: float) -> np.ndarray:
    """Losses with g = height * (1 + |point|^2), draw after draw a little steeper."""
    axes = np.meshgrid(*[measure.alphas()] * measure.dimensions, indexing="ij")
    square = sum(axis**2 for axis in axes)
    return np.stack([height * (1 + (1 + 0.1 * draw) * square) for draw in range(measure.draws)])


def write(sweep: Sweep, trial_id: str, height: float, network: str = layout.LAST) -> None:
    folder = Path(sweep.storage) / sweep.name / trial_id / layout.MEASURES
    folder.mkdir(parents=True, exist_ok=True)
    for measure in sweep.evaluation.measures:
        if measure.name != "landscape":
            continue
        losses = surface(measure, height)
        arrays = {"robust_loss": losses, "robust_error": losses / 50, "clean_loss": losses / 2, "clean_error": losses}
        content = io.BytesIO()
        np.savez_compressed(content, alpha=np.array(measure.alphas()), **arrays)
        name = layout.arrays_name(layout.result_name(measure, sweep.evaluation.seed, network))
        (folder / name).write_bytes(content.getvalue())


def a_run(sweep: Sweep, index: int, best_epoch: int | None = None, **metrics: float) -> TrialRun:
    values = {"robust_loss_gap": 0.1 * index, "average_flatness_xi0.5": index**1.5, **metrics}
    if best_epoch is not None:
        values["best/epoch"] = float(best_epoch)
    trial_id, evaluated = sweep.trials()[index].trial_id, sweep.evaluation.evaluation_id
    return TrialRun(f"r{index}", trial_id, "FINISHED", "finished", evaluated, "", "", {}, values, {})


def measured(sweep: Sweep, **best: int) -> pd.DataFrame:
    for index, trial in enumerate(sweep.trials()):
        write(sweep, trial.trial_id, 1 + index)
    return trial_table(sweep, [a_run(sweep, index, **best) for index in range(len(sweep.trials()))])


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_color(): np.array(line.get_xydata()) for line in axes.get_lines()}


# ---- reading ------------------------------------------------------------------------------------------------------


def test_every_point_of_every_network_is_a_row(tmp_path):
    sweep = a_sweep(tmp_path)
    table, missing = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    assert missing == [] and len(table) == 8 * 2 * 5
    for index, trial in enumerate(sweep.trials()):
        own = table[table["trial_id"] == trial.trial_id]
        assert set(own["method"]) == {trial.method.label()} and set(own["seed"]) == {trial.seed}
        for draw in range(2):
            expected = (1 + index) * (1 + (1 + 0.1 * draw) * np.linspace(-1, 1, 5) ** 2)
            np.testing.assert_allclose(own[own["draw"] == draw]["alpha"], np.linspace(-1, 1, 5))
            np.testing.assert_allclose(own[own["draw"] == draw]["robust_loss"], expected)
            np.testing.assert_allclose(own[own["draw"] == draw]["clean_loss"], expected / 2)


def test_axes_of_a_surface_are_not_swapped(tmp_path):
    sweep = a_sweep(tmp_path, [SURFACES])
    networks = measured(sweep)
    measure = sweep.evaluation.measures[0]
    folder = tmp_path / "x" / sweep.trials()[0].trial_id / layout.MEASURES
    (file,) = folder.iterdir()
    values = np.arange(9.0).reshape(1, 3, 3)
    np.savez(file, alpha=np.array([-1.0, 0.0, 1.0]), **dict.fromkeys(("robust_loss", "clean_loss"), values),
             **dict.fromkeys(("robust_error", "clean_error"), values))  # fmt: skip
    table, _ = read(sweep, networks, measure)
    first = table.iloc[:9]
    assert list(first["alpha"]) == [-1, -1, -1, 0, 0, 0, 1, 1, 1] and list(first["beta"]) == [-1, 0, 1] * 3
    assert list(first["robust_loss"]) == list(range(9))
    figure = draw_surface(first, "test", [0.5, 2, 8])
    contours = figure.axes[0].collections[1]
    # the loss rises by 3 along alpha and by 1 along beta: 2 is crossed at (-1, 1)
    (path,) = (path for path in contours.get_paths() if len(path.vertices))
    assert any(np.allclose(vertex, (-1, 1)) for vertex in path.vertices)


def test_a_missing_file_is_said(tmp_path):
    sweep = a_sweep(tmp_path)
    table = measured(sweep)
    gone = sweep.trials()[3]
    for file in (tmp_path / "x" / gone.trial_id / layout.MEASURES).iterdir():
        file.unlink()
    drawn = landscapes(sweep, table, tmp_path / "f")
    assert drawn.notes == [
        f"no landscape of {gone.trial_id} (at | dropout | seed 1): its file is not in the sweep's storage, or damaged"
    ]
    assert gone.trial_id not in drawn.files[2].read_text() and len(drawn.files) == 3


def test_early_stopped_networks(tmp_path):
    """Each has its own file, but where the last epoch is the best: then it has the last one's curve."""
    sweep = a_sweep(tmp_path, [CURVES, SURFACES], early_stopping=True)
    measured(sweep)
    trials = sweep.trials()
    epochs = [EPOCHS if index in {0, 5} else 4 for index in range(8)]
    for index, trial in enumerate(trials):
        if epochs[index] < EPOCHS:
            write(sweep, trial.trial_id, 0.5, layout.BEST)
    table = trial_table(sweep, [a_run(sweep, index, epochs[index]) for index in range(8)])
    drawn = landscapes(sweep, table, tmp_path / "f")
    assert drawn.notes == []
    points = pd.read_csv(tmp_path / "f" / "landscape.csv", keep_default_na=False)
    at_origin = points[(points["alpha"] == 0) & (points["draw"] == 0)].set_index(["trial_id", "checkpoint"])
    for index, trial in enumerate(trials):
        assert at_origin["robust_loss"][trial.trial_id, "last"] == 1 + index
        assert at_origin["robust_loss"][trial.trial_id, "best"] == (1 + index if epochs[index] == EPOCHS else 0.5)
    surfaces = {path.name for path in drawn.files if path.name.startswith("landscape_2d") and path.suffix == ".svg"}
    expected = {f"landscape_2d-{trial.trial_id}.svg" for trial in trials}
    expected |= {f"landscape_2d-{trials[i].trial_id}-best.svg" for i in range(8) if epochs[i] < EPOCHS}
    assert surfaces == expected
    titles = [axes.get_title(loc="left") for axes in draw_curves(points).axes]
    assert titles == ["no regularizer", "dropout", "no regularizer,\nearly-stopped", "dropout, early-stopped"]


def test_trials_that_have_not_finished_are_not_drawn(tmp_path):
    sweep = a_sweep(tmp_path)
    for trial in sweep.trials():
        write(sweep, trial.trial_id, 1.0)
    assert landscapes(sweep, trial_table(sweep, []), tmp_path / "f").files == []
    running = replace(a_run(sweep, 0), state="running")
    assert landscapes(sweep, trial_table(sweep, [running]), tmp_path / "f").files == []
    one = landscapes(sweep, trial_table(sweep, [a_run(sweep, 0)]), tmp_path / "f")
    assert len(pd.read_csv(one.files[2])) == 10


def test_nothing_where_none_is_measured(tmp_path):
    sweep = a_sweep(tmp_path, ["robustness"])
    assert landscapes(sweep, measured(sweep), tmp_path / "f") == ([], [])
    assert not (tmp_path / "f").exists()


# ---- curves -------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_over_seeds_and_draws_with_a_band(tmp_path):
    sweep = a_sweep(tmp_path)
    points, _ = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    figure = draw_curves(points)
    assert len(figure.axes) == 2 and [len(axes.get_lines()) for axes in figure.axes] == [2, 2]
    alpha = np.linspace(-1, 1, 5)
    # trials 0 and 1 are the seeds of at without regulariser; draws are 1 and 1.1 times as steep
    seeds = np.array([height * (1 + 1.05 * alpha**2) for height in (1, 2)])
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_xydata(), np.stack([alpha, seeds.mean(0)], 1))
    bands = [item for item in figure.axes[0].collections if item.get_gid() == BAND]
    assert len(bands) == 2
    (path,) = bands[0].get_paths()
    low, high = path.vertices[:, 1].min(), path.vertices[:, 1].max()
    deviation = seeds.std(0, ddof=1)
    assert low == pytest.approx((seeds.mean(0) - deviation).min())
    assert high == pytest.approx((seeds.mean(0) + deviation).max())
    colours = [line.get_color() for line in figure.axes[0].get_lines()]
    assert colours == [line.get_color() for line in figure.axes[1].get_lines()] and len(set(colours)) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "at", "trades", "± 1 standard deviation\nover seeds"
    ]  # fmt: skip
    assert figure.axes[0].get_ylabel() == "Robust loss, test (nats)"
    assert draw_curves(points, "train", "clean_error").axes[0].get_ylabel() == "Clean error, train (fraction)"


def test_one_seed_has_no_band(tmp_path):
    sweep = a_sweep(tmp_path)
    points, _ = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    figure = draw_curves(points[points["seed"] == 0])
    assert not any(item.get_gid() == BAND for axes in figure.axes for item in axes.collections)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["at", "trades"]


@pytest.mark.parametrize(("tops", "end"), [([2.0, 4.0], 4.2), ([2.0, 40.0], 6.0), ([2.0, 160.0], 12.5)])
def test_a_steep_curve_does_not_flatten_the_others(tops, end):
    """Three times as high as the lowest climbs, but every floor (a sixteenth of a curve's top) is in sight."""
    rows = [
        {"trial_id": "t", "checkpoint": "last", "method": method, "regularizer": "none", "setting": "", "seed": 0,
         "draw": 0, "alpha": alpha, "robust_loss": top * height}
        for method, top in zip(("at", "standard"), tops, strict=True)
        for alpha, height in ((-1.0, 1.0), (0.0, 1 / 16), (1.0, 0.5))
    ]  # fmt: skip
    assert draw_curves(pd.DataFrame(rows)).axes[0].get_ylim() == pytest.approx((0, end))


def test_panels_keep_their_text_apart(tmp_path):
    sweep = a_sweep(tmp_path)
    points, _ = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    names = ["none", *(f"weight_decay(value=0.00{i}), cutout(size={i})" for i in range(4))]
    wide = pd.concat([points.assign(regularizer=name) for name in names])
    figure = draw_curves(wide)
    figure.draw_without_rendering()
    assert [axes.get_gridspec().ncols for axes in figure.axes] == [3] * 5  # two rows: three and two
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [figure.legends[0].get_window_extent()]
    for index, one in enumerate(boxes):
        assert not any(one.shrunk(0.98, 0.98).overlaps(other) for other in boxes[index + 1 :]), index
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, True, True, True]


# ---- surfaces -----------------------------------------------------------------------------------------------------


def test_surfaces_of_all_networks_share_round_levels(tmp_path):
    sweep = a_sweep(tmp_path, [SURFACES])
    drawn = landscapes(sweep, measured(sweep), tmp_path / "f")
    assert len(drawn.files) == 3 * 8
    for path in drawn.files[1::3]:
        assert all(f">{level}<" in path.read_text() for level in ("1.4", "20", "30"))  # losses from 1 to 8 * 3
    first = pd.read_csv(drawn.files[2])
    assert set(first["trial_id"]) == {sweep.trials()[0].trial_id} and len(first) == 9


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.51, 92.0], [0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 14, 20, 30, 50, 70, 100]),
        ([1.0, 2.0], [1, 1.4, 2]),
        ([2.5, 2.5], [2, 3]),
        ([1.0, 1.0], [1, 1.4]),
        ([0.02, 92.0, np.inf, np.nan, 0.0], [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]),
        ([1e-7, 90.0], [10.0**k for k in range(-7, 3)]),
        ([0.0, np.nan], []),
    ],
)
def test_levels_are_round_and_hold_all_losses(values, levels):
    assert contour_levels(np.array(values)) == pytest.approx(levels)


def test_losses_without_a_number_leave_a_hole_and_no_warning(tmp_path):
    sweep = a_sweep(tmp_path, [{**SURFACES, "draws": 2}])
    points, _ = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    own = points.iloc[:18].copy()
    own.loc[0, "robust_loss"], own.loc[2, "robust_loss"] = np.nan, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_surface(own, "test", contour_levels(own["robust_loss"].to_numpy()))
        figure.savefig(tmp_path / "hole.png")
        draw_surface(own.assign(robust_loss=np.nan), "test", []).savefig(tmp_path / "none.png")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["plane 1", "plane 2"]


# ---- files and the sweep's run --------------------------------------------------------------------------------------


def test_same_arrays_same_files(tmp_path):
    sweep = a_sweep(tmp_path, [CURVES, SURFACES])
    table = measured(sweep)
    one, other = (landscapes(sweep, table, tmp_path / name).files for name in "ab")
    assert [path.name for path in one] == [path.name for path in other] and len(one) == 3 * 9
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes().startswith(b"\x89PNG") and one[1].name == "landscape.svg"


def test_labels_are_taken_as_they_are(tmp_path):
    sweep = a_sweep(tmp_path)
    points, _ = read(sweep, measured(sweep), sweep.evaluation.measures[0])
    odd = "odd$_method<&>$"
    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_curves(points.assign(method=odd, regularizer=odd)).savefig(tmp_path / "curves.svg")
        draw_surface(grid(odd), "test", [1, 2]).savefig(tmp_path / "surface.svg")
    for name in ("curves", "surface"):
        assert "odd$_method&lt;&amp;&gt;$" in (tmp_path / f"{name}.svg").read_text()


def grid(method: str) -> pd.DataFrame:
    a, b = (axis.ravel() for axis in np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]))
    labels = {"trial_id": "t", "checkpoint": "last", "method": method, "regularizer": "none", "setting": "", "seed": 0}
    return pd.DataFrame(labels | {"draw": 0, "alpha": a, "beta": b, "robust_loss": 1 + a**2 + b**2})


class FakeStore:
    """As much of a store as an answer asks for."""

    uri, experiment_id = "nowhere", "1"

    def __init__(self, runs: list[TrialRun]) -> None:
        self.runs, self.logged = runs, list[tuple[str, Path, str]]()

    def trial_runs(self, name: str, curves_of: object = ()) -> list[TrialRun]:
        return self.runs

    def changed_runs(self, name: str, since_ms: int) -> list[TrialRun]:
        return self.runs

    def runs_by_id(self, run_ids: list[str]) -> list[TrialRun]:
        return [run for run in self.runs if run.run_id in run_ids]

    def holds_exactly(self, name: str, run_ids: list[str]) -> bool:
        return sorted(run_ids) == sorted(run.run_id for run in self.runs)

    def parent_run(self, name: str) -> str:
        return "parent"

    def log_files(self, run_id: str, files: list[Path], folder: str) -> None:
        self.logged += [(run_id, file, folder) for file in files]


@pytest.mark.parametrize(("ask", "with_flatness"), [(answer, True), (publish, True), (publish, False)])
def test_figures_lie_in_the_analysis_folder_and_on_the_sweeps_run(tmp_path, ask, with_flatness):
    measures = ["robustness", *(["average_flatness"] if with_flatness else []), CURVES, SURFACES]
    sweep = a_sweep(tmp_path, measures)
    measured(sweep)
    runs = [a_run(sweep, index) for index in range(8)]
    if not with_flatness:
        runs = [replace(run, metrics={"robust_loss_gap": 1.0}) for run in runs]
    gone = sweep.trials()[1].trial_id
    for file in (tmp_path / "x" / gone / layout.MEASURES).iterdir():
        file.unlink()
    store = FakeStore(runs)
    found = ask(sweep, store)
    logged = {path.name for run_id, path, folder in store.logged if (run_id, folder) == ("parent", "analysis")}
    names = {"landscape", *(f"landscape_2d-{trial.trial_id}" for trial in sweep.trials() if trial.trial_id != gone)}
    assert {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")} <= logged
    assert "table.csv" in logged and ("correlation.json" in logged) == with_flatness
    assert all(path.parent == tmp_path / "x" / answer_module.ANALYSIS and path.exists() for _, path, _ in store.logged)
    if ask is answer:
        assert sum(gone in note and "not in the sweep's storage" in note for note in found.notes) == 2


def test_importing_does_not_load_matplotlib():
    code = "import sys, orchestrator.analysis.landscapes; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
