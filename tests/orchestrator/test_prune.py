"""What `training.keep` and `flatsweep prune` remove, and what they never do: real trials, trained for a moment."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.driver import driver_lock
from orchestrator.errors import UserError
from orchestrator.evaluations import remember as remember_evaluation
from orchestrator.plan import Action, Traces, decide
from orchestrator.prune import prune
from orchestrator.spec.sweep import Evaluation, Sweep
from workers import layout
from workers.retention import Contents
from workers.storage import Folder
from workers.trial import run_trial

ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 1}
FILE: dict[str, Any] = {
    "name": "x",
    "data": {"name": "digits", "train_size": 100, "validation_size": 50, "test_size": 50},
    "model": {"name": "small_preact_resnet", "width": 4},
    "training": {
        "epochs": 5, "batch_size": 50, "attack": ATTACK, "early_stopping": {"examples": 20, "attack": {"steps": 1}},
    },
    "evaluation": {
        "measures": [{"name": "robustness", "attack": {"steps": 1}, "train_examples": 20, "test_examples": 20}],
        "checkpoints": ["last", "best", "kept"],
    },
    "grid": {"methods": ["at"], "seeds": [0]},
}  # fmt: skip


def a_sweep(storage: Path, **training: Any) -> Sweep:
    return Sweep.model_validate({**FILE, "storage": str(storage), "training": {**FILE["training"], **training}})


def place_of(sweep: Sweep) -> Folder:
    return Folder(sweep.storage) / sweep.name / sweep.trials()[0].trial_id


def kept(sweep: Sweep) -> tuple[int, list[int]]:
    """Number of checkpoints, and the epochs of the networks beside them."""
    found = Contents.of(place_of(sweep))
    return len(found.checkpoints), sorted(found.snapshots)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one trial, trained and measured, that kept every epoch's network."""
    storage = tmp_path_factory.mktemp("trained")
    sweep = a_sweep(storage, keep_every=1)
    run_trial(sweep.trials()[0], sweep.evaluation, place_of(sweep))
    return storage


@pytest.fixture
def storage(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def best_of(sweep: Sweep) -> int:
    best = Contents.of(place_of(sweep)).best
    assert best is not None
    return best


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "keep",
    [
        "last",
        pytest.param("best", marks=SLOW),
        "every 2",
        pytest.param("all", marks=SLOW),
        pytest.param(None, marks=SLOW),
    ],
)
def test_a_trial_keeps_what_it_is_told_to(keep: str | None, trained: Path, tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, keep=keep)
    (trial,) = sweep.trials()
    assert trial.trial_id == a_sweep(trained, keep_every=1).trials()[0].trial_id
    values = run_trial(trial, sweep.evaluation, place_of(sweep))
    best = best_of(sweep)
    expected = {
        "last": (1, set()),
        "best": (1, {best}),
        "every 2": (1, {2, 4, best}),
        "all": (2, {1, 2, 3, 4, best}),
        None: (2, {best}),
    }
    assert kept(sweep) == (expected[keep][0], sorted(expected[keep][1]))
    # whatever is kept, the trial is done, and running it again changes nothing
    traces = Traces.of(place_of(sweep))
    run = type("Run", (), {"state": "finished", "evaluation_id": sweep.evaluation.evaluation_id})()
    assert decide(trial, sweep.evaluation, run, traces)[0] is Action.DONE
    assert run_trial(trial, sweep.evaluation, place_of(sweep)) == values
    assert kept(sweep) == (expected[keep][0], sorted(expected[keep][1]))


@pytest.mark.parametrize("keep", ["last", "best", "every 2", "all", None])
def test_prune_leaves_what_is_named_and_a_dry_run_leaves_all(keep: str | None, storage: Path) -> None:
    sweep = a_sweep(storage, keep_every=2)
    best, before = best_of(sweep), place_of(sweep).files()
    shown = prune(sweep, keep, dry_run=True)
    assert place_of(sweep).files() == before
    done = prune(sweep, keep)
    assert done.removals == shown.removals
    expected = {
        "last": (1, set()),
        "best": (1, {best}),
        "every 2": (1, {2, 4, best}),
        "all": (2, {1, 2, 3, 4, best}),
        None: (1, {2, 4, best}),
    }
    assert kept(sweep) == (expected[keep][0], sorted(expected[keep][1]))
    assert done.size == sum(before.values()) - sum(place_of(sweep).files().values())
    assert prune(sweep, keep).removals == ()


def test_the_newest_checkpoint_stays_and_an_older_one_while_it_is_damaged(storage: Path) -> None:
    sweep = a_sweep(storage)
    folder = place_of(sweep)
    name = Contents.of(folder).checkpoints[0]
    whole = (folder / layout.CHECKPOINTS).read(name)
    (folder / layout.CHECKPOINTS).write(name, whole[:-1])
    done = prune(sweep, "last")
    assert done.removals == () and "newest checkpoint is damaged" in done.notes[0]
    (folder / layout.CHECKPOINTS).write(name, whole)
    prune(sweep, "last")
    assert Contents.of(folder).checkpoints == [name]


def test_nothing_goes_of_a_trial_that_is_not_finished(storage: Path) -> None:
    sweep = a_sweep(storage)
    folder = Path(place_of(sweep).url)
    result = folder / layout.MEASURES / layout.result_name(sweep.evaluation.measures[0], 0)
    content = result.read_bytes()
    result.unlink()  # the last network is to be measured again
    assert prune(sweep, "last").removals == ()
    result.write_bytes(content)
    next((folder / layout.CHECKPOINTS).glob("epoch-000005-*")).unlink()  # its training is not at its end
    assert prune(sweep, "last").removals == ()


def test_what_an_evaluation_has_still_to_measure_stays(storage: Path) -> None:
    sweep = a_sweep(storage)
    best = best_of(sweep)
    robustness = {**FILE["evaluation"]["measures"][0], "test_examples": 10}
    remember_evaluation(sweep, Evaluation(measures=[robustness], checkpoints=("last", "best")))
    prune(sweep, "last")
    assert kept(sweep) == (1, [best])


def test_what_was_put_aside_or_left_half_written_goes(storage: Path) -> None:
    sweep = a_sweep(storage)
    root, folder = Folder(str(storage)) / "x", place_of(sweep)
    trial_id = sweep.trials()[0].trial_id
    shutil.copytree(folder.url, f"{folder.url}.old-1")
    aside = sum((root / f"{trial_id}.old-1").files().values())
    before = folder.files()
    for place in (root, folder, folder / "checkpoints"):
        place.write(f".some.pt.{'0' * 32}.part", b"half")
    folder.write("measures/robustness-0123.parts", b"this is a result in the making")
    done = prune(sweep, "all")
    assert {(one.folder, one.size) for one in done.removals} == {("", 4), (trial_id, 8), (f"{trial_id}.old-1", aside)}
    assert set(folder.files()) == {*before, "measures/robustness-0123.parts"} and root.names() == [
        ".driver.lock.holder",
        trial_id,
    ]


def test_it_refuses_while_a_driver_runs_and_skips_what_a_worker_holds(storage: Path) -> None:
    sweep = a_sweep(storage)
    with driver_lock(sweep):
        for dry_run in (True, False):
            with pytest.raises(UserError, match="being run"):
                prune(sweep, "last", dry_run=dry_run)
    with place_of(sweep).lock(1):
        done = prune(sweep, "last")
        assert done.removals == () and "another process" in done.notes[0]
    assert kept(sweep)[0] == 2


def test_a_teacher_keeps_its_network_and_a_cell_that_left_the_grid_is_still_one(storage: Path) -> None:
    """A teacher is not measured: that nothing of it is must not keep its old checkpoints, nor lose its newest."""
    unlabeled = {"name": "unlabeled", "over": "at"}
    data = {**FILE["data"], "unlabeled": {"size": 50}}
    grid = {"methods": [unlabeled], "seeds": [0]}
    sweep = Sweep.model_validate({**FILE, "storage": str(storage), "data": data, "grid": grid})
    (teacher,) = sweep.teachers()
    run_trial(teacher, None, Folder(sweep.storage) / "x" / teacher.trial_id)
    prune(sweep)
    found = Contents.of(Folder(sweep.storage) / "x" / teacher.trial_id)
    assert len(found.checkpoints) == 1 and found.epoch == teacher.training.epochs
    gone = Contents.of(place_of(a_sweep(storage)))  # no cell of this grid: as its own trial.json says
    assert len(gone.checkpoints) == 1 and set(gone.snapshots) >= {1, 2, 3, 4}


@pytest.mark.parametrize("keep", ["", "lasts", "every", "every 0", "every -1", "every 1.5", "every  2", "every 2\n"])
def test_what_is_no_way_to_keep_is_refused(keep: str, storage: Path) -> None:
    with pytest.raises(ValueError, match="expected 'last'"):
        a_sweep(storage, keep=keep)
    with pytest.raises(UserError, match="expected last"):
        prune(a_sweep(storage), keep)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs training\.early_stopping"):
        a_sweep(tmp_path, keep="best", early_stopping=None)
    with pytest.raises(ValueError, match="leave one out"):
        a_sweep(tmp_path, keep="every 2", keep_every=3)
    a_sweep(tmp_path, keep="best", keep_every=3)  # kept for its curve, and removed when it is drawn


def test_the_command_says_what_goes_and_how_much(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = a_sweep(storage)
    file = storage.parent / "x.yaml"
    file.write_text(json.dumps({**FILE, "storage": "runs"}))

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["flatsweep", "prune", str(file), *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    before = place_of(sweep).files()
    shown = json.loads(said("--keep", "last", "--dry-run", "--json"))
    assert shown["dry_run"] and place_of(sweep).files() == before
    text = said("--keep", "last")
    assert "freed" in text and sweep.trials()[0].trial_id in text
    gone = set(before) - set(place_of(sweep).files())
    assert set(shown["removed"][0]["paths"]) == gone and shown["bytes"] == sum(before[path] for path in gone)
    assert "freed 0 bytes" in said("--keep", "last")
