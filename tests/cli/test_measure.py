"""`flatsweep measure` of a network from elsewhere, without a sweep: values, options, and what is refused."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.spec.data import Digits
from orchestrator.spec.measures import Robustness
from orchestrator.spec.training import Attack
from tests.e2e.sweeping import run_inside
from workers.data.splits import load_splits
from workers.loading import as_classifier
from workers.measures.robustness import robustness

MODULE = """
from torch import nn

def mlp(hidden=6):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
"""
FAST = "[{name: robustness, attack: {steps: 2}, train_examples: 20, test_examples: 30}, norms]"
DIGITS = "{name: digits, train_size: 50, test_size: 40}"


def mlp() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with somebody's module and weights, where the command runs."""
    (tmp_path / "theirs.py").write_text(MODULE)
    torch.save({"state_dict": mlp().state_dict()}, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("theirs", None)


def measure(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """What it prints: standard output and standard error."""
    capsys.readouterr()
    assert run_inside("measure", "--device", "cpu", *words) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


NETWORK = ("--model", "theirs:mlp", "--checkpoint", "w.pt")
SMALL = (*NETWORK, "--data", DIGITS, "--measures", FAST)


def test_json_is_the_values_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = measure(capsys, *SMALL, "--attack", "{eps: 25/255}", "--seed", "4", "--mean", "0.3", "--std", "0.5",
                       "--json")  # fmt: skip
    found = json.loads(out)
    splits = load_splits(Digits(train_size=50, test_size=40), torch.device("cpu"))
    model = as_classifier(mlp(), splits, (0.3,), (0.5,), torch.device("cpu"))
    settings = Robustness(attack={"steps": 2}, train_examples=20, test_examples=30)  # type: ignore[arg-type]
    expected = robustness(model, splits, settings, attack=Attack(eps=25 / 255), seed=4).values
    assert {key: found[key] for key in expected} == expected
    assert found["initial_distance"] is None and found["path_norm"] > 0
    assert "flag  norms: initial_distance is not known: the network was not trained here" in err
    assert {path.name for path in place.iterdir()} <= {"theirs.py", "w.pt", "__pycache__"}  # nothing is kept


def test_text_has_every_value_with_its_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = measure(capsys, *SMALL)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if len(line.split()) > 1}
    assert len(rows["robust_loss_gap"]) == 2 and len(rows["frobenius_norm"]) == 1
    assert rows["initial_distance"] == ["nan"] and "robust_loss_gap_se" not in rows
    assert all(math.isfinite(float(rows[f"{kind}_loss_test"][0])) for kind in ("robust", "clean"))


def test_measures_by_name_with_settings_and_presets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*NETWORK, "--data", DIGITS, "--measures", "average_flatness, robustness")
    quick = ("--preset", "quick", "--set", "attack.steps=1", "--set", "average_flatness.draws=2", "--json")
    found = json.loads(measure(capsys, *words, *quick)[0])
    assert list(found)[:2] == ["average_flatness_xi0.5", "average_flatness_xi0.5_se"]
    assert len(found) == 2 + 24
    block = "- name: norms\n  iterations: 100\n- {name: margins, attack: {steps: 1}, percentile: 20}"
    found = json.loads(measure(capsys, *NETWORK, "--data", DIGITS, "--measures", block, "--json")[0])
    assert "margin_p20_clean_test" in found and "spectral_norm_product" in found


def test_images_from_a_file_beside(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    np.savez(
        place / "x.npz",
        x_train=random.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        y_train=np.arange(12) % 10,
        x_test=random.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        y_test=np.arange(6),
    )
    words = ("--data", "{name: npz, path: x.npz}", "--measures", "[{name: robustness, attack: {steps: 1}}]", "--json")
    found = json.loads(measure(capsys, *NETWORK, *words)[0])
    assert found["clean_error_test"] * 6 == pytest.approx(round(found["clean_error_test"] * 6))


def test_a_function_without_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "theirs:mlp", "--model-args", "{hidden: 3}", "--data", DIGITS, "--measures", "norms", "--json")
    first, second = (json.loads(measure(capsys, *words)[0]) for _ in range(2))
    assert first == second and first["frobenius_norm"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*NETWORK, "--measures", "norms"), "--data is missing: the images to measure on"),
        ((*NETWORK, "--data", "digitz"), "--data: unknown data set 'digitz'; did you mean 'digits'?"),
        ((*NETWORK, "--data", "{name: digits, test_size: 0}"), "--data: test_size: Input should be greater than or"),
        ((*NETWORK, "--data", "{name: digits"), "--data: "),
        ((*NETWORK, "--data", "{name: npz, path: no.npz}"), "no.npz"),
        ((*NETWORK, "--data", DIGITS, "--attack", "{eps: 8}"), "--attack: eps: eps 8 is out of range"),
        ((*NETWORK, "--data", DIGITS, "--attack", "pgd"), "--attack: "),
        ((*NETWORK, "--data", DIGITS, "--measures", "robustnes"), "--measures: unknown measure 'robustnes'; did you"),
        (
            (*NETWORK, "--data", DIGITS, "--attack", "{norm: l2, eps: 2}", "--measures",
             "[{name: robustness, attack: {norm: linf}}]"),
            "--measures: robustness.attack: eps: eps 2 is out of range",
        ),
        ((*NETWORK, "--data", DIGITS, "--set", "drows=3"), "no measure has the setting 'drows'"),
        (("--model", "theirs:mlp", "--checkpoint", "v.pt", "--data", DIGITS), "there is no file v.pt"),
        (("--model", "theirs", "--data", DIGITS), "--model theirs: give package.module:function"),
        ((*NETWORK, "--data", DIGITS, "--model-args", "[3]"), "--model-args: expected a mapping"),
        ((*NETWORK, "--data", DIGITS, "--model-args", "{hidden: 5}"), "w.pt does not fit the network of --model: 3 of"),
        ((*NETWORK, "--data", DIGITS, "--mean", "a,b"), "--mean a,b: expected numbers with commas"),
        ((*NETWORK, "--data", DIGITS, "--std", "0.1,0.2"), "--std: 2 values for images of 1 channels"),
        ((*NETWORK, "--data", "{name: digits, train_size: 5000}"), "train_size asks for 5000"),
        ((*NETWORK, "--data", DIGITS, "--device", "abacus"), "--device abacus: "),
    ],
)  # fmt: skip
def test_one_message_for_a_mistake(
    words: tuple[str, ...], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = measure(capsys, *words, code=2)
    assert out == ""
    assert err.startswith("error: ") and message in err
    assert len(err.splitlines()) == 1 and "Traceback" not in err


def test_options_of_recording_need_a_sweep(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = measure(capsys, *NETWORK, "--record-in", "nosuch", "--label", "x", code=2)
    assert "no sweep called 'nosuch'" in err and out == ""
    (place / "s.yaml").write_text("name: s\ngrid:\n  methods: [at]\n  seeds: [0]\n")
    _, err = measure(capsys, *NETWORK, "--record-in", "s.yaml", "--label", "x", code=2)
    assert "nothing is recorded of sweep 's'" in err and not (place / "runs").exists()
