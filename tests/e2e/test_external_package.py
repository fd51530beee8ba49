"""A package of somebody else, really installed beside flatsweep: a sweep made of nothing but its components."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweeping import Place, Recorded, each_epoch_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = Path(__file__).parents[1] / "external_package"
COUNT, EPS, EPOCHS, BOUND = 40, 0.1, 3, 0.05
SWEEP: dict[str, Any] = {
    "data": {"name": "stripes", "count": COUNT},
    "model": {"name": "pooled_linear", "cells": 8},
    "training": {"epochs": EPOCHS, "batch_size": 20, "attack": {"eps": EPS}, "schedule": "constant"},
    "grid": {
        "methods": [{"name": "noise_mix", "share": 0.25}, {"name": "awp", "over": "noise_mix"}],
        "regularizers": ["none", {"name": "row_norm", "bound": BOUND}],
        "seeds": [0],
    },
    "evaluation": {"measures": ["weight_norm"]},
}


@pytest.fixture(scope="module")
def path(installer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH with the package installed."""
    top = tmp_path_factory.mktemp("external")
    shutil.copytree(SOURCE, top / "source")  # setuptools builds inside its source
    installer.install(top / "source", top / "site")
    return os.pathsep.join([str(top / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass(frozen=True)
class Swept:
    place: Place
    planned: Any
    done: Any
    again: Any
    runs: dict[str, Recorded]


@pytest.fixture(scope="module")
def swept(path: str, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    place = Place(tmp_path_factory.mktemp("sweep"), "foreign", **SWEEP)

    def said(command: str) -> Any:
        done = place.run(command, "--json", PYTHONPATH=path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout)

    return Swept(place, said("plan"), said("submit"), said("plan"), place.recorded())


def final_weights(swept: Swept, trial_id: str) -> dict[str, torch.Tensor]:
    newest = max((swept.place.trial_folder(trial_id) / "checkpoints").glob("*.pt"))
    weights: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["model"]
    return weights


def test_a_sweep_of_its_components_runs(swept: Swept) -> None:
    assert swept.planned["counts"] == {"run": 4}
    assert swept.done["launched"] == 4 and swept.done["counts"] == swept.again["counts"] == {"done": 4}
    ids = [entry["trial_id"] for entry in swept.planned["trials"]]
    assert set(ids) == set(swept.runs)
    methods = [entry["method"] for entry in swept.planned["trials"]]
    assert methods == [*["noise_mix(share=0.25)"] * 2, *["awp(noise_mix, gamma=0.01)"] * 2]
    for run in swept.runs.values():
        each_epoch_once(run, EPOCHS)


def test_runs_say_which_package_made_them(swept: Swept) -> None:
    for trial_id, run in swept.runs.items():
        assert run.tag("flatsweep-stripes_version") == "0.3"
        assert swept.place.journal_tag(trial_id, "flatsweep-stripes_version") == "0.3"
        assert run.params["data.count"] == str(COUNT) and run.params["model.name"] == "pooled_linear"


def test_its_data_were_trained_on(swept: Swept) -> None:
    train = np.full((COUNT, 8, 8, 1), 20, np.uint8)
    for index in range(COUNT):
        if index % 2 == 0:
            train[index, ::2] = 120 + index
        else:
            train[index, :, ::2] = 120 + index
    labels = np.array([0, 1] * (COUNT // 2), np.int64)
    total = hashlib.sha256()
    for array in (train, labels, 255 - train, labels):
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    assert {run.tag("data_digest") for run in swept.runs.values()} == {total.hexdigest()}
    for trial_id in swept.runs:
        assert float(final_weights(swept, trial_id)["mean"]) == pytest.approx(train.mean() / 255)


def test_its_network_regularizer_and_measure_did_what_they_say(swept: Swept) -> None:
    for trial_id, run in swept.runs.items():
        weights = final_weights(swept, trial_id)
        trained = {key: value.double() for key, value in weights.items() if key.startswith("network.")}
        assert {key: tuple(value.shape) for key, value in trained.items()} == {
            "network.2.weight": (2, 64),
            "network.2.bias": (2,),
        }
        expected = sum(float((value**2).sum()) for value in trained.values()) ** 0.5
        assert run.metrics["weight_norm"] == swept.place.results(trial_id)["weight_norm"] == pytest.approx(expected)
        longest = float(trained["network.2.weight"].norm(dim=1).max())
        assert (longest <= BOUND * (1 + 1e-6)) == (run.tag("regularizer") == f"row_norm(bound={BOUND})")


def test_each_method_and_regularizer_trains_another_network(swept: Swept) -> None:
    assert len({run.tag("weights") for run in swept.runs.values()}) == 4


def test_its_broken_measure_is_refused_where_it_is_named(path: str, tmp_path: Path) -> None:
    place = Place(tmp_path, "broken", **SWEEP | {"evaluation": {"measures": ["never"]}})
    done = place.run("submit", PYTHONPATH=path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "measure 'never' cannot be used: entry point 'never = stripes.spec:WasForgotten' of package " in done.stderr
    assert "flatsweep-stripes 0.3 cannot be imported: AttributeError" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    done = Place(tmp_path, "missing", **SWEEP).run("plan")
    assert done.returncode == 2
    for kind, name in (("data set", "stripes"), ("model", "pooled_linear"), ("measure", "weight_norm")):
        assert f"unknown {kind} '{name}'" in done.stderr
