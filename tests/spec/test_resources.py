"""Resources in a sweep file: what may be asked for, and that a trial is the same one wherever it runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import UserError
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Sweep


def sweep(folder: Path, **resources: Any) -> Sweep:
    file = folder / "s.yaml"
    file.write_text(yaml.safe_dump({"name": "s", "grid": {"methods": ["at"], "seeds": [0, 1]}, "resources": resources}))
    return load_sweep_file(file).sweep


def test_a_trial_is_the_same_wherever_it_runs(tmp_path: Path) -> None:
    plain = sweep(tmp_path)
    other = sweep(
        tmp_path,
        cpu=7,
        gpu="1/4",
        accelerator_type="H100",
        custom={"fast_disk": 2},
        max_concurrent=3,
        max_retries=9,
    )
    assert (other.resources.gpu, other.resources.custom) == (0.25, {"fast_disk": 2})
    assert other.resources != plain.resources
    assert [trial.trial_id for trial in other.trials()] == [trial.trial_id for trial in plain.trials()]
    assert other.evaluation.evaluation_id == plain.evaluation.evaluation_id


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"gpu": 1.5}, "neither a fraction of one GPU nor a number of whole ones"),
        ({"gpu": "3/2"}, "neither a fraction"),
        ({"accelerator_type": ""}, "expected text"),
        ({"max_concurrent": 0}, "at least 1"),
        ({"custom": {"GPU": 1}}, "resources.gpu"),
        ({"custom": {"cpu": 1}}, "resources.cpu"),
        ({"custom": {"accelerator_type:H100": 1}}, "resources.accelerator_type"),
        ({"custom": {"memory": 1}}, "no name of a custom resource"),
        ({"custom": {"lane": 0}}, "greater than 0"),
        ({"custom": ["lane"]}, "resources.custom"),
    ],
    ids=str,
)
def test_what_no_cluster_could_give_is_refused(resources: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        sweep(tmp_path, **resources)
    assert said in str(error.value)
    assert "s.yaml:" in str(error.value)


@pytest.mark.parametrize("gpu", [0, 0.1, 1, 2.0])
def test_fractions_and_whole_gpus(gpu: float, tmp_path: Path) -> None:
    assert sweep(tmp_path, gpu=gpu).resources.gpu == gpu
