"""Profiles and a grid's own sections: what merges, what replaces, and at which line a mistake in them is shown."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.spec.document import leaves
from orchestrator.spec.loading import SweepFile, load_sweep_file
from orchestrator.spec.merging import merged, merged_keys, source

FILE = """\
name: full
data: {name: npz, path: a.npz, train_size: 100}
model: preact_resnet18
training:
  epochs: 150
  optimizer: {name: sgd, lr: 0.1}
  schedule: {name: multistep, milestones: [60, 90]}
  attack: {eps: 8/255, steps: 7}
grid:
  methods: [at, {name: trades, beta: [1, 6]}]
  seeds: [0, 1]
profiles:
  small:
    model: {width: 8}
    training:
      epochs: 2
      schedule: constant
      attack: {steps: 1}
    grid:
      seeds: [0]
  other:
    name: mine
    data: digits
    training:
      optimizer: {name: adam, lr: 1e-3}
      schedule: {milestones: [1]}
"""  # `profiles` is on line 12


def load(folder: Path, text: str = FILE, profile: str | None = None) -> SweepFile:
    (folder / "s.yaml").write_text(text)
    return load_sweep_file(folder / "s.yaml", profile)


def refusal(folder: Path, text: str, profile: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        load(folder, text, profile)
    return str(error.value).replace(f"{folder}/", "")


# merging


TREES = st.recursive(
    st.integers(0, 9) | st.just([1, {"a": 2}]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, min_size=1, max_size=3)


def flat(tree: Any, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no mapping, by its keys."""
    if not isinstance(tree, dict):
        return {place: tree}
    return {found: value for key, item in tree.items() for found, value in flat(item, (*place, key)).items()}


@given(MAPPINGS, MAPPINGS)
def test_merging_is_what_it_is_value_by_value(base: Any, override: Any) -> None:
    changes = flat(override)
    kept = {
        place: value
        for place, value in flat(base).items()
        if not any(place[: len(other)] == other or other[: len(place)] == place for other in changes)
    }
    result, origins = merged_keys(base, override, ("b",), ("o",))
    assert flat(result) == kept | changes
    for place, _ in leaves(result):
        keys = next(place[:end] for end in range(len(place) + 1) if place[:end] in kept | changes)
        assert source(place, origins) == (("o" if keys in changes else "b"), *place)


@pytest.mark.parametrize(
    ("base", "override", "result"),
    [
        ({"name": "sgd", "lr": 1}, {"name": "sgd", "momentum": 0}, {"name": "sgd", "lr": 1, "momentum": 0}),
        ({"name": "sgd", "lr": 1}, {"name": "adam"}, {"name": "adam"}),
        ({"name": "sgd", "lr": 1}, {"lr": 2}, {"name": "sgd", "lr": 2}),
        ({"name": "sgd", "lr": 1}, "sgd", "sgd"),
        ("sgd", {"lr": 2}, {"name": "sgd", "lr": 2}),
        ("sgd", {"name": "adam", "lr": 2}, {"name": "adam", "lr": 2}),
        ({"lr": 1}, {"name": "adam"}, {"name": "adam"}),
        ([1, 2], [3], [3]),
        ([{"a": 1}], {"a": 2}, {"a": 2}),
        ({"a": 1}, None, None),
        (None, {"a": 1}, {"a": 1}),
    ],
    ids=str,
)
def test_components(base: Any, override: Any, result: Any) -> None:
    assert merged(base, override, (), ())[0] == result


# profiles


def test_without_a_profile_they_change_nothing(tmp_path: Path) -> None:
    plain = load(tmp_path, FILE.split("profiles:")[0])
    assert load(tmp_path).sweep == plain.sweep
    assert load(tmp_path).words == str(tmp_path / "s.yaml")


def test_a_profile(tmp_path: Path) -> None:
    file = load(tmp_path, profile="small")
    sweep = file.sweep
    assert (sweep.name, file.profile, file.words) == ("full-small", "small", f"{tmp_path / 's.yaml'} --profile small")
    (training,) = sweep.training
    assert (training.epochs, training.schedule.name, training.attack.steps) == (2, "constant", 1)
    assert training.attack.eps == 8 / 255 and training.optimizer.lr == 0.1
    assert sweep.model[0].label() == "preact_resnet18(width=8)"
    assert [trial.label() for trial in sweep.trials()] == [
        f"{method} | none | seed 0" for method in ("at", "trades(beta=1)", "trades")
    ]
    assert {data.train_size for data in sweep.data} == {100}


def test_another_name_replaces(tmp_path: Path) -> None:
    sweep = load(tmp_path, profile="other").sweep
    assert (sweep.name, sweep.data[0].name, sweep.data[0].train_size) == ("mine", "digits", None)
    (training,) = sweep.training
    assert training.optimizer.model_dump()["betas"] == (0.9, 0.999) and training.optimizer.lr == 1e-3
    assert training.schedule.model_dump()["milestones"] == (1,)
    assert training.epochs == 150


def test_the_ids_are_those_of_the_trials_not_of_the_way_they_are_written(tmp_path: Path) -> None:
    written_out = """\
name: anything
data: {name: npz, path: elsewhere/a.npz, train_size: 100}
model: {name: preact_resnet18, width: 8}
training: {epochs: 2, optimizer: {name: sgd, lr: 0.1}, schedule: constant, attack: {steps: 1}}
grid: {methods: [at, {name: trades, beta: 1}, trades], seeds: [0]}
"""
    by_profile = [trial.trial_id for trial in load(tmp_path, profile="small").sweep.trials()]
    assert by_profile == [trial.trial_id for trial in load(tmp_path, written_out).sweep.trials()]


BAD = {
    "value": ("epochs: 2", "epochs: many", 16, 'profiles.small.training.epochs: expected a whole number, got "many"'),
    "range": ("{steps: 1}", "{steps: 0}", 18, "profiles.small.training.attack.steps: must be at least 1 (got 0)"),
    "eps": ("{steps: 1}", "{eps: 8}", 18, "profiles.small.training.attack.eps: eps 8 is out of range"),
    "unknown key deep": ("{steps: 1}", "{step: 1}", 18, "profiles.small.training.attack.step: unknown key 'step'"),
    "unknown name": ("schedule: constant", "schedule: cosin", 17, "did you mean 'cosine'?"),
    "list item": ("seeds: [0]\n  other", "seeds:\n        - 0\n        - -1\n  other", 22, "grid.seeds[1]: must be at"),
    "duplicate seed": ("seeds: [0]\n  other", "seeds: [3, 3]\n  other", 20, "profiles.small.grid.seeds[1]: this is in"),
    "axis": ("epochs: 2", "epochs:\n        - 2\n        - 0", 18, "profiles.small.training.epochs[1]: must be"),
    "a list for data": ("model: {width: 8}", "data: [digits]", 14, "profiles.small.data: expected one data set's name"),
    "training as text": ("model: {width: 8}", "model: 3", 14, "profiles.small.model: expected one model's name"),
    "parameter of another class": ("model: {width: 8}", "model: {depth: 16}", 14, "unknown key 'depth'; did you mean"),
    "its own mistake in the file": ("epochs: 150\n", "epochs: -1\n", 16, ""),
    "the file's mistake": ("lr: 0.1", "lr: 0", 6, "training.optimizer.lr: must be greater than 0 (got 0)"),
    "grid without methods": ("seeds: [0]\n", "- {seeds: [0]}\n", 20, "profiles.small.grid[0].methods: required key"),
    "lost value": ("epochs: 2", "epochs: !!int x", 16, "'x' does not fit its tag !!int"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_shown_at_their_lines(case: str, tmp_path: Path) -> None:
    old, new, line, phrase = BAD[case]
    assert old in FILE
    if not phrase:  # overridden by the profile: no mistake any more
        assert load(tmp_path, FILE.replace(old, new), "small").sweep.training[0].epochs == 2
        return
    message = refusal(tmp_path, FILE.replace(old, new), "small")
    (row,) = message.splitlines()
    assert row.startswith(f"s.yaml:{line}: ") and phrase in row


def test_what_a_profile_changes_is_checked_when_it_is_used(tmp_path: Path) -> None:
    assert load(tmp_path, FILE.replace("epochs: 2", "epochs: many")).sweep.name == "full"
    assert load(tmp_path, FILE.replace("epochs: 2", "epochs: many"), "other").sweep.name == "mine"


SHAPES = {
    "no mapping": (FILE.split("profiles:")[0] + "profiles: [small]\n", 12, "profiles: expected a mapping of names"),
    "no mapping in it": (FILE.replace("  other:\n", "  other: x\n  third:\n"), 21, "expected a mapping of what it"),
    "empty one": (FILE.replace("  other:\n", "  other:\n  third:\n"), 21, "profiles.other: expected a mapping"),
    "unknown key": (FILE.replace("    model: {width", "    modle: {width"), 14, "did you mean 'model'?"),
    "profiles of profiles": (FILE.replace("    name: mine", "    profiles: {}"), 22, "unknown key 'profiles'"),
    "a name that is none": (FILE.replace("  other:", "  ../other:"), 21, "'../other' is not a plain name"),
    "the sweep's own name": (FILE.replace("name: mine", "name: full"), 22, "their runs would mix"),
    "misspelt": (FILE.replace("profiles:", "profile:"), 12, "did you mean 'profiles'?"),
    "twice": (FILE.replace("  other:", "  small:"), 21, "key 'small' is given twice, first on line 13"),
}


@pytest.mark.parametrize("profile", [None, "small"])
@pytest.mark.parametrize("case", SHAPES)
def test_the_form_is_checked_in_any_case(case: str, profile: str | None, tmp_path: Path) -> None:
    text, line, phrase = SHAPES[case]
    rows = refusal(tmp_path, text, profile).splitlines()
    assert any(row.startswith(f"s.yaml:{line}: ") and phrase in row for row in rows), rows


def test_unknown_profiles(tmp_path: Path) -> None:
    assert refusal(tmp_path, FILE, "smal") == ("s.yaml:12: profiles: there is no profile 'smal'; did you mean 'small'?")
    assert "allowed: other, small" in refusal(tmp_path, FILE, "huge")
    assert "the file has no profiles" in refusal(tmp_path, FILE.split("profiles:")[0], "small")
    assert "there is no profile ''" in refusal(tmp_path, FILE, "")


def test_an_alias_in_a_profile_is_shown_where_it_is_written(tmp_path: Path) -> None:
    text = FILE.replace("attack: {eps: 8/255, steps: 7}", "attack: &attack {eps: 8/255, steps: 7}")
    text = text.replace("attack: {steps: 1}", "attack: {<<: *attack, steps: 0}")
    assert refusal(tmp_path, text, "small").startswith("s.yaml:18: profiles.small.training.attack.steps")


# several grids


GRIDS = """\
name: x
data: {name: npz, path: a.npz}
training:
  epochs: 10
  schedule: {name: multistep, milestones: [5]}
grid:
  - methods: [at, mart]
    regularizers: [none]
    seeds: [0]
  - methods: [at]
    training: {epochs: [10, 20]}
    seeds: [0]
  - methods: [at]
    data: {path: b.npz}
    model: resnet18
    training:
      schedule: cosine
    seeds: [0, 1]
"""


def test_grids_are_united_and_what_they_share_is_one_trial(tmp_path: Path) -> None:
    sweep = load(tmp_path, GRIDS).sweep
    found = [
        (trial.label(), trial.training.epochs, trial.training.schedule.name, trial.model.name)
        for trial in sweep.trials()
    ]
    assert found == [
        ("at | none | seed 0", 10, "multistep", "small_preact_resnet"),
        ("mart | none | seed 0", 10, "multistep", "small_preact_resnet"),
        ("at | none | seed 0", 20, "multistep", "small_preact_resnet"),
        ("at | none | seed 0", 10, "cosine", "resnet18"),
        ("at | none | seed 1", 10, "cosine", "resnet18"),
    ]
    assert len({trial.trial_id for trial in sweep.trials()}) == 5
    paths = [data.model_dump()["path"] for data in sweep.data_sets()]
    assert paths == [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert type(sweep).model_validate_json(sweep.model_dump_json()) == sweep


def test_one_grid_is_a_list_of_one(tmp_path: Path) -> None:
    one = "name: x\ngrid: {methods: [at, trades], seeds: [0, 1]}\n"
    listed = "name: x\ngrid: [{methods: [at, trades], seeds: [0, 1]}]\n"
    assert load(tmp_path, one).sweep == load(tmp_path, listed).sweep


BAD_GRIDS = {
    "value": ("training: {epochs: [10, 20]}", "training: {epochs: [10, q]}", 11, 'grid[1].training.epochs[1]: '),
    "shared value": ("  epochs: 10", "  epochs: 0", 4, "training.epochs: must be at least 1 (got 0)"),
    "unknown key": ("schedule: cosine", "schdule: cosine", 17, "grid[2].training.schdule: unknown key 'schdule'"),
    "unknown name": ("resnet18", "resnet1", 15, "grid[2].model: unknown model 'resnet1'; did you mean"),
    "merged into another": ("schedule: cosine", "schedule: {milestones: [a]}", 17, "milestones[0]: expected a whole"),
    "in the merged part": ("milestones: [5]", "milestones: [-5]", 5, "training.schedule.milestones[0]: must be"),
    "missing": ("    training: {epochs: [10, 20]}\n    seeds: [0]\n", "", 10, "grid[1].seeds: required key 'seeds'"),
    "twice in one grid": ("epochs: [10, 20]", "epochs: [20, 20]", 11, "grid[1].training: this is in the grid"),
    "list": ("model: resnet18", "model: [resnet18]", 15, "grid[2].model: expected one model's name or mapping, got a"),
    "null": ("model: resnet18", "model:", 15, "grid[2].model: expected one model's name or mapping, got null"),
    "no grid": ("- methods: [at, mart]\n    regularizers: [none]\n    seeds: [0]\n", "- 3\n", 7, "grid[0]: expected a"),
    "exclude": ("regularizers: [none]\n", "exclude: [{seed: 7}]\n", 8, "grid[0].exclude[0]: no cell of the grid match"),
    "emptied": ("regularizers: [none]\n", "exclude: [{seed: 0}]\n", 8, "grid[0].exclude: the grid is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GRIDS)
def test_mistakes_in_grids_are_shown_at_their_lines(case: str, tmp_path: Path) -> None:
    old, new, line, phrase = BAD_GRIDS[case]
    assert old in GRIDS
    rows = refusal(tmp_path, GRIDS.replace(old, new, 1)).splitlines()
    assert len(rows) == 1
    assert rows[0].startswith(f"s.yaml:{line}: ") and phrase in rows[0]


def test_no_grid_at_all(tmp_path: Path) -> None:
    assert "s.yaml:2: grid: the list is empty" in refusal(tmp_path, "name: x\ngrid: []\n")
    assert "s.yaml:2: grid: expected a list, got 3" in refusal(tmp_path, "name: x\ngrid: 3\n")


def test_the_limit_counts_all_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.spec import axes

    monkeypatch.setattr(axes, "MAX_VARIANTS", 6)
    assert len(load(tmp_path, GRIDS).sweep.trials()) == 5  # of 6 cells
    monkeypatch.setattr(axes, "MAX_VARIANTS", 5)
    assert "s.yaml:6: grid: the grid spans 6 cells" in refusal(tmp_path, GRIDS)


def test_an_evaluation_attack_must_fit_every_grid(tmp_path: Path) -> None:
    text = GRIDS.replace("{epochs: [10, 20]}", "{attack: {norm: l2, eps: 2}}")
    text += "evaluation: {measures: [{name: robustness, attack: {norm: linf}}]}\n"
    assert "s.yaml:19: evaluation.measures[0].attack.eps: eps 2 is out of range" in refusal(tmp_path, text)


def test_a_profile_may_change_a_grid_of_its_own(tmp_path: Path) -> None:
    text = (
        GRIDS
        + "profiles:\n  small:\n    grid:\n      - methods: [at]\n        training: {epochs: 0}\n        seeds: [0]\n"
    )
    assert refusal(tmp_path, text, "small").startswith(
        "s.yaml:23: profiles.small.grid[0].training.epochs: must be at least 1 (got 0)"
    )
    assert len(load(tmp_path, text.replace("epochs: 0", "epochs: 1"), "small").sweep.trials()) == 1
