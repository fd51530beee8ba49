"""What cannot be trained is refused when the sweep file is read, with the reason at its line."""

from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.spec.loading import load_sweep_file

CASES = {
    "no validation images": (
        "data: cifar10\ntraining:\n  early_stopping: {}\ngrid: {methods: [at], seeds: [0]}\n",
        3,
        "training.early_stopping: early stopping looks at validation images, and there are none: "
        "give data.validation_size",
    ),
    "none in one variant": (
        "data: {name: digits, validation_size: [100, 0]}\ntraining: {early_stopping: {}}\n"
        "grid: {methods: [at], seeds: [0]}\n",
        2,
        "give data.validation_size",
    ),
    "attack": (
        "training:\n  early_stopping:\n    attack: {eps: 8}\ngrid: {methods: [at], seeds: [0]}\n",
        3,
        "training.early_stopping.attack.eps: eps 8 is out of range",
    ),
    "nothing without labels": (
        "grid:\n  methods:\n    - at\n    - {name: awp, over: {name: unlabeled, over: trades}}\n  seeds: [0]\n",
        4,
        "grid.methods[1]: it needs images without labels: give data.unlabeled",
    ),
    "no file of labels": (
        "data: {name: digits, unlabeled: {size: 100}}\ngrid:\n  methods:\n    - name: unlabeled\n      labels: file\n"
        "  seeds: [0]\n",
        5,
        "grid.methods[0].labels: pseudo-labels from a file, but data.unlabeled has no path",
    ),
    "no labelled image": (
        "data: {name: digits, unlabeled: {size: 100}}\ntraining: {batch_size: 4}\n"
        "grid: {methods: [{name: unlabeled, fraction: 0.9}], seeds: [0]}\n",
        3,
        "0.9 of a batch of 4 leaves no image of one kind",
    ),
    "unlabeled twice": (
        "data: {name: digits, unlabeled: {size: 100}}\n"
        "grid: {methods: [{name: unlabeled, over: unlabeled}], seeds: [0]}\n",
        2,
        "unknown method under unlabeled 'unlabeled'",
    ),
    "from nowhere": (
        "data:\n  name: digits\n  unlabeled: {title: a}\ngrid: {methods: [at], seeds: [0]}\n",
        3,
        "data.unlabeled: where from?",
    ),
    "images too small": (
        "data: {name: digits}\nmodel: {name: torchvision, architecture: vgg11}\ngrid: {methods: [at], seeds: [0]}\n",
        2,
        "not 8 x 8 as in digits",
    ),
    "no relu": (
        "data: cifar10\nmodel: vit_small\ngrid:\n  methods: [at]\n  regularizers:\n    - none\n"
        "    - [{name: label_noise, rate: 0.1}, {name: activation, kind: tanh}]\n  seeds: [0]\n",
        7,
        "activation replaces ReLUs, and vit_small has none",
    ),
    "cutout": (
        "grid:\n  methods: [at]\n  regularizers: [[autoaugment, cutout]]\n  seeds: [0]\n",
        3,
        "a cutout of 16 pixels is larger than the images of digits, 8 x 8",
    ),
    "one of many": (
        "grid:\n  methods: [at]\n  regularizers:\n    - {name: label_noise, rate: [.1, .2, .3]}\n    - cutout\n"
        "  seeds: [0, 1, 2]\n",
        5,
        "a cutout of 16 pixels",
    ),
    "awp never": (
        "training: {epochs: 10}\ngrid:\n  methods:\n    - {name: awp, over: trades}\n  seeds: [0]\n",
        4,
        "grid.methods[0]: awp with a warm-up of 10 epochs never perturbs in a training of 10",
    ),
    "without last": (
        "grid: {methods: [at], seeds: [0]}\nevaluation:\n  checkpoints: [best]\n",
        3,
        "evaluation.checkpoints: 'last' is always measured: list it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_at_the_line(case: str, tmp_path: Path) -> None:
    text, line, message = CASES[case]
    path = tmp_path / "s.yaml"
    path.write_text(f"name: x\n{text}")
    with pytest.raises(UserError) as error:
        load_sweep_file(path)
    assert f"{path}:{line + 1}" in str(error.value)
    assert message in str(error.value)


def test_an_excluded_cell_may_be_impossible(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: x\ngrid:\n  methods: [at, trades]\n  regularizers: [none, cutout]\n  seeds: [0]\n"
        "  exclude: [{regularizer: cutout}]\n"
    )
    assert len(load_sweep_file(path).sweep.trials()) == 2
