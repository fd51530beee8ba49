"""Measuring a trial's networks: parts that survive a stop, arrays and flags beside the values, presets and cost."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.spec.measures import MEASURES, AverageFlatness, Robustness, WorstFlatness
from orchestrator.spec.sweep import Evaluation
from orchestrator.spec.training import Attack
from tests.workers.toys import digits, trial
from workers import layout
from workers.data.splits import Images
from workers.evaluation import evaluation_steps
from workers.failures import StorageError
from workers.journal import Journal
from workers.measurement import KeptParts, Measuring
from workers.measures.average_flatness import average_flatness
from workers.measures.result import Result
from workers.measures.robustness import robustness
from workers.measures.worst_flatness import worst_flatness
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer
from workers.trial import run_trial, trial_steps

FAST = {"steps": 2, "step_size": 0.05}
TRIAL = trial(epochs=1)
AVERAGE = AverageFlatness(attack=FAST, examples=20, draws=5)  # type: ignore[arg-type]
WORST = WorstFlatness(attack=FAST, examples=20, restarts=4, epochs=2, xi=(0.01,))  # type: ignore[arg-type]
ROBUSTNESS = Robustness(attack=FAST, train_examples=30, test_examples=20)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    run_trial(TRIAL, None, Folder(str(path)))
    return path


def copied(path: Path, to: Path) -> Folder:
    shutil.copytree(path, to)
    return Folder(str(to))


@pytest.mark.parametrize(("measure", "parts"), [(AVERAGE, 6), (WORST, 5)])
def test_a_stopped_measure_goes_on_at_its_next_part(measure: Any, parts: int, trained: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(measures=(measure,))
    name = layout.result_name(measure, 0)
    whole = run_trial(TRIAL, evaluation, copied(trained, tmp_path / "whole"))
    folder, seen = copied(trained, tmp_path / "stopped"), []
    for _ in range(parts + 5):
        steps = trial_steps(TRIAL, evaluation, folder)
        kept = KeptParts(folder / layout.MEASURES, layout.parts_name(name))
        seen.append(len(kept))
        # stop as soon as one more part is on disk
        for _ in steps:
            if len(KeptParts(folder / layout.MEASURES, layout.parts_name(name))) > len(kept):
                break
        else:
            break
        steps.close()
    assert seen == list(range(parts)), "each start found one part more, and lost none"
    assert run_trial(TRIAL, evaluation, folder) == whole
    assert not [file for file in (folder / layout.MEASURES).names() if file.endswith(".parts")]
    content = [
        json.loads((folder / layout.MEASURES).read(name))["values"]
        for folder in (folder, Folder(str(tmp_path / "whole")))
    ]
    assert content[0] == content[1]


def test_parts_that_a_dead_worker_left_beside_their_result_go(trained: Path, tmp_path: Path) -> None:
    folder, evaluation = copied(trained, tmp_path / "t"), Evaluation(measures=(ROBUSTNESS,))
    values = run_trial(TRIAL, evaluation, folder)
    KeptParts(folder / layout.MEASURES, layout.parts_name(layout.result_name(ROBUSTNESS, 0)))["done"] = 1.0
    assert run_trial(TRIAL, evaluation, folder) == values
    assert not [file for file in (folder / layout.MEASURES).names() if file.endswith(".parts")]


def test_per_example_results_are_kept(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path / "t")
    values = run_trial(TRIAL, Evaluation(measures=(ROBUSTNESS,)), folder)
    name = layout.arrays_name(layout.result_name(ROBUSTNESS, 0))
    arrays = np.load(io.BytesIO((folder / layout.MEASURES).read(name)))
    assert arrays["robust_loss_train"].shape == (30,) and arrays["clean_error_test"].shape == (20,)
    for kind in ("robust_loss", "robust_error", "clean_loss", "clean_error"):
        sets = {part: arrays[f"{kind}_{part}"].astype(float) for part in ("train", "test")}
        errors = {part: x.std(ddof=1) / np.sqrt(len(x)) for part, x in sets.items()}
        for part, x in sets.items():
            assert values[f"{kind}_{part}"] == pytest.approx(x.mean())
            assert values[f"{kind}_{part}_se"] == pytest.approx(errors[part], abs=1e-12)
        assert values[f"{kind}_gap"] == pytest.approx(sets["test"].mean() - sets["train"].mean())
        assert values[f"{kind}_gap_se"] == pytest.approx(np.hypot(errors["train"], errors["test"]), abs=1e-12)
    (record,) = [record for record in Journal(folder).records if record.kind == "file"]
    assert record.key == f"{layout.MEASURES}/{name}"


class Constant(nn.Module):
    """Logits that rise with the brightness for class 0: an attack that is stopped half way may lower the loss."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.flatten(1).mean(1, keepdim=True) * self.weight
        return torch.cat([bright] + [torch.zeros_like(bright)] * 9, 1)


def test_what_is_not_finite_is_flagged() -> None:
    result = Result.of({"a": float("nan"), "b": 1.0, "c": float("inf")})
    assert result.flags == ("not finite: a, c",)
    assert Result.of(result.values).values == result.values
    assert Result.of(Result({"a": 1.0}, flags=("x",))).flags == ("x",)


def test_an_attack_that_lowers_the_loss_is_flagged() -> None:
    settings = Robustness(attack={"steps": 1, "step_size": 1e-9, "best_iterate": False, "eps": 0.2}, train_examples=200)  # type: ignore[arg-type]
    # random starts alone, and a network for which noise, cut at 0, makes digits brighter and class 0 likelier
    splits = digits()
    dark = Images(splits.train.x * 0, splits.train.y * 0)
    result = robustness(Constant(50.0), replace(splits, train=dark), settings, attack=Attack(), seed=0)
    assert any("lowered the loss on train" in flag for flag in result.flags)
    honest = robustness(Constant(50.0), splits, Robustness(attack=FAST), attack=Attack(), seed=0)  # type: ignore[arg-type]
    assert honest.flags == ()


def test_a_weaker_reference_is_flagged(trained: Path) -> None:
    model = Trainer(TRIAL, digits(), Folder(str(trained)) / layout.CHECKPOINTS, torch.device("cpu")).model
    settings = AVERAGE.model_copy(update={"xi": (1e-9,), "protocol": "stutz21"})
    result = average_flatness(model, digits(), settings, attack=TRIAL.training.attack, seed=0)
    assert result["average_flatness_xi1e-09"] < 0, "ten restarts for the reference, one for the perturbed network"
    assert any("is negative" in flag for flag in result.flags)
    worst = worst_flatness(
        model, digits(), WORST.model_copy(update={"xi": (0.0,), "protocol": "stutz21", "restarts": 1, "epochs": 0}),
        attack=TRIAL.training.attack, seed=0,
    )  # fmt: skip
    assert worst["worst_flatness_xi0"] < 0 and worst.flags
    matched = average_flatness(model, digits(), AVERAGE.model_copy(update={"xi": (0.0,)}), attack=Attack(), seed=0)
    assert matched.flags == ()


def test_flags_reach_the_journal_and_go_again(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path / "t")
    settings = AVERAGE.model_copy(update={"xi": (1e-9,), "protocol": "stutz21"})
    run_trial(TRIAL, Evaluation(measures=(settings,)), folder)
    tags = {record.key: record.text for record in Journal(folder).records if record.kind == "tag"}
    assert "is negative" in tags["flags/last/average_flatness"]
    run_trial(TRIAL, Evaluation(measures=(AVERAGE,)), folder)
    tags = {record.key: record.text for record in Journal(folder).records if record.kind == "tag"}
    assert tags["flags/last/average_flatness"] == ""


def test_measuring_once_more_leaves_the_trial_as_it_is(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path / "t")
    own = run_trial(TRIAL, Evaluation(measures=(ROBUSTNESS,)), folder)
    before = Journal(folder).records
    other = Evaluation(measures=(ROBUSTNESS.model_copy(update={"test_examples": 10}),))
    values = drain(evaluation_steps(TRIAL, other, folder))
    assert values["robust_loss_test"] != own["robust_loss_test"]
    new = Journal(folder).records[len(before) :]
    assert not [record for record in new if record.kind == "state"]
    prefix = layout.evaluation_prefix(other.evaluation_id)
    metrics = {record.key.removeprefix(prefix): record.value for record in new if record.kind == "metric"}
    assert {key: metrics[key] for key in values} == values and all(
        r.key.startswith(prefix) for r in new if r.kind == "metric"
    )
    stands = [record.text for record in new if record.key == layout.evaluated_tag(other.evaluation_id)]
    assert stands == ["running", "finished"]


def test_measuring_once_more_can_be_stopped_or_fail(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(trained, tmp_path / "t")
    evaluation = Evaluation(measures=(AVERAGE,))
    tag = layout.evaluated_tag(evaluation.evaluation_id)

    def stands() -> str:
        return [record.text for record in Journal(folder).records if record.key == tag][-1]

    steps = evaluation_steps(TRIAL, evaluation, folder)
    assert isinstance(next(steps), Measuring)
    steps.close()
    assert stands() == "interrupted"

    def broken(*_args: object, **_more: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(average_flatness, "steps", broken)
    with pytest.raises(RuntimeError):
        drain(evaluation_steps(TRIAL, evaluation, folder))
    assert stands() == "failed: code_error: RuntimeError: no such thing"
    states = [record.text for record in Journal(folder).records if record.kind == "state"]
    assert states[-1] == "finished", "the trial itself is as it was"


def test_what_is_not_trained_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not trained"):
        drain(evaluation_steps(TRIAL, Evaluation(measures=(ROBUSTNESS,)), Folder(str(tmp_path))))


# ---- presets and cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, cls in MEASURES.classes().items() if cls.presets])
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_a_preset_is_what_it_fills_in(name: str, preset: str) -> None:
    cls = MEASURES.get(name)
    chosen = MEASURES.parse({"name": name, "preset": preset})
    written = MEASURES.parse({"name": name, **cls.presets[preset]})
    seeds = [Evaluation(measures=(measure,)).evaluation_id for measure in (chosen, written)]
    assert seeds[0] == seeds[1]
    for key, value in cls.presets[preset].items():
        found = getattr(chosen, key)
        wanted = found.model_dump() | value if isinstance(value, dict) else value
        again = cls.model_validate({**chosen.model_dump(), key: wanted})
        assert getattr(again, key) == found


def test_what_is_written_wins_over_the_preset() -> None:
    chosen = AverageFlatness.model_validate({"preset": "quick", "draws": 7, "attack": {"restarts": 2}})
    assert (chosen.draws, chosen.examples, chosen.attack.steps, chosen.attack.restarts) == (7, 300, 10, 2)
    assert AverageFlatness(preset="paper").protocol == "stutz21"
    assert AverageFlatness().preset is None


class Counting(nn.Module):
    """Counts the images that go forward, and those whose gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.forwards = self.backwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += len(x)
        z: torch.Tensor = self.linear(x.flatten(1))
        if z.requires_grad:
            z.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + len(gradient)))
        return z


@pytest.mark.parametrize(
    "measure",
    [
        ROBUSTNESS,
        ROBUSTNESS.model_copy(update={"attack": ROBUSTNESS.attack.model_copy(update={"restarts": 3})}),
        AVERAGE,
        AVERAGE.model_copy(update={"protocol": "stutz21", "xi": (0.1, 0.2)}),
        WORST,
        WORST.model_copy(update={"protocol": "stutz21", "xi": (0.1, 0.2)}),
    ],
)
def test_predicted_passes_are_those_that_are_made(measure: Any) -> None:
    model, attack = Counting(), Attack(**FAST)  # type: ignore[arg-type]
    measure.load()(model, digits(), measure, attack=attack, seed=0)
    made = (model.forwards + model.backwards) / 2
    predicted = measure.passes(attack)
    assert made <= predicted <= 1.35 * made, "an upper bound, and not a loose one"
