"""The method of CONTRIBUTING.md, taken from its text: installed as a package and put into the tree, it trains."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import CPU, DATA, digits

from orchestrator.spec import plugins
from orchestrator.spec.base import packages
from orchestrator.spec.methods import METHODS
from orchestrator.spec.sweep import Trial
from workers.training import Trainer, weights_digest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL))
SPEC, TRAINING, PROJECT, IN_TREE = (
    "half_at/spec.py",
    "half_at/training.py",
    "pyproject.toml",
    "orchestrator/spec/methods.py",
)
ALPHA, EPS, STEPS = 0.25, 0.1, 5
TRIAL: dict[str, Any] = {
    "data": DATA,
    "model": {"name": "small_preact_resnet", "width": 4},
    "method": {"name": "half", "alpha": ALPHA},
    "training": {
        "epochs": 2, "batch_size": 50, "schedule": "constant",
        # one step from the image itself: what the attack gives can be written in a line
        "attack": {"eps": EPS, "step_size": EPS, "steps": 1, "random_start": False, "best_iterate": False},
    },
    "seed": 3,
}  # fmt: skip

TRAIN = """
import json, sys
import torch
from orchestrator.spec import methods
from orchestrator.spec.sweep import Trial
from workers.data.splits import load_splits
from workers.training import Trainer, weights_digest

torch.set_num_threads(1)
trial, cpu = Trial.model_validate_json(sys.argv[1]), torch.device("cpu")
trainer = Trainer(trial, load_splits(trial.data, cpu), None, cpu)
run = trainer.run()
for _ in range(int(sys.argv[2])):
    next(run)
print(json.dumps([methods.__file__, trial.trial_id, weights_digest(trainer.model)]))
"""


def forget() -> None:
    """As in a fresh interpreter."""
    plugins._installed.cache_clear()
    METHODS._offered.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "half_at"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def site(installer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the text is installed."""
    top = tmp_path_factory.mktemp("contributing")
    for name in (SPEC, TRAINING, PROJECT):
        (top / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "source" / name).write_text(FILES[name])
    installer.install(top / "source", top / "site")
    return top / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    forget()


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (logits.logsumexp(1) - logits[torch.arange(len(y)), y]).mean()


def expected_loss(trainer: Trainer) -> tuple[float, float]:
    """The loss of the next step in float64, and its clean part, from the formula in the text."""
    model = copy.deepcopy(trainer.model).double()
    x, y = trainer.batches.batch(trainer.epoch, trainer.next_batch)
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model.eval()(x), y), x)
    x_adv = (x + EPS * gradient.sign()).clamp(0, 1).detach()
    clean, adversarial = (cross_entropy(model.train()(z), y).item() for z in (x, x_adv))
    return (1 - ALPHA) * clean + ALPHA * adversarial, clean


def test_a_whole_method_takes_under_30_lines() -> None:
    assert set(FILES) == {SPEC, TRAINING, PROJECT, IN_TREE}
    assert len((FILES[SPEC] + FILES[TRAINING]).splitlines()) < 30
    shown = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 1 and shown[0] in FILES[PROJECT]


def test_as_a_package_it_trains_on_the_loss_that_it_promises(installed: None) -> None:
    trial = Trial.model_validate(TRIAL)
    assert packages(trial) == {"half-at": "0.1"}
    trainer = Trainer(trial, digits(), None, CPU)
    run = trainer.run()
    for _ in range(STEPS):
        if trainer.next_batch == len(trainer.batches):
            next(run)  # the end of an epoch
        expected, clean = expected_loss(trainer)
        before = trainer.sums.clone()
        next(run)
        loss, _, count = (trainer.sums - before).tolist()
        assert count == 50
        assert loss / count == pytest.approx(expected, rel=1e-4)
        assert expected > clean * 1.01  # the adversarial part is seen in the sum


def test_as_a_package_it_is_one_method_among_others(installed: None) -> None:
    assert METHODS.names()[-1] == "half"
    assert METHODS.parse({"name": "awp", "over": "half"}).label() == "awp(half, gamma=0.01)"
    with pytest.raises(ValueError, match="less than or equal to 1"):
        METHODS.parse({"name": "half", "alpha": 1.5})


def test_inside_the_tree_it_trains_the_same_network(installed: None, tmp_path: Path) -> None:
    for package in ("orchestrator", "workers"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    _, body = FILES[SPEC].split("class Half(Method):\n")
    decorated, path = FILES[IN_TREE].split("class Half(Method):\n")
    body, replaced = re.subn(r"    implementation = .*\n", path, body)
    assert replaced == 1
    with (tmp_path / IN_TREE).open("a") as methods:
        methods.write(f"\n\n{decorated}class Half(Method):\n{body}")
    (tmp_path / "workers" / "methods" / "half.py").write_text(FILES[TRAINING])

    trial = Trial.model_validate(TRIAL)
    words = [sys.executable, "-c", TRAIN, trial.model_dump_json(), str(STEPS)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    file, trial_id, weights = json.loads(done.stdout)
    assert Path(file) == tmp_path / IN_TREE
    trainer = Trainer(trial, digits(), None, CPU)
    run = trainer.run()
    for _ in range(STEPS):
        next(run)
    assert weights == weights_digest(trainer.model)
    assert trial_id != trial.trial_id  # another package's method is another trial
