"""Networks from elsewhere: files of weights as people save them, functions that build networks, and what is refused."""

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toys import CPU, digits, digits_network, seeded

from workers.data.splits import Images, Splits
from workers.loading import NetworkError, Source, as_classifier, fill, load_network, read_state

MODULE = """
import torch
from torch import nn

def mlp(hidden=6, norm=False):
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), *middle, nn.ReLU(), nn.Linear(hidden, 10))

class Zoo:
    small = staticmethod(mlp)

def broken():
    raise RuntimeError("no such luck")

def nothing():
    return "a network"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with somebody's module, where a command runs."""
    (tmp_path / "theirs.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield tmp_path
    sys.modules.pop("theirs", None)


def mlp(hidden: int = 6, norm: bool = False, seed: int = 3) -> nn.Sequential:
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), *middle, nn.ReLU(), nn.Linear(hidden, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)))
    return network


def state() -> dict[str, torch.Tensor]:
    return dict(mlp().state_dict())


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state().items()}


def load(checkpoint: Path | None, factory: str = "theirs:mlp", key: str | None = None, **arguments: Any) -> nn.Module:
    return load_network(Source(factory, arguments, checkpoint, key))


def assert_is_mlp(network: nn.Module) -> None:
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, state()[name]), name


FILES = {
    "state dict": state(),
    "state_dict": {"epoch": 7, "state_dict": state(), "best": 0.5, "arch": "mlp"},
    "model": {"model": state(), "optimizer": torch.optim.SGD(mlp().parameters(), momentum=0.9, lr=0.1).state_dict()},
    "some other key": {"net": state(), "acc": 91.2, "rng": torch.zeros(3)},
    "data parallel": prefixed("module."),
    "compiled": {"state_dict": prefixed("_orig_mod.")},
    "compiled data parallel": prefixed("module._orig_mod."),
    "data parallel compiled": prefixed("_orig_mod.module."),
    "double precision": {name: value.double() for name, value in state().items()},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_file_as_people_save_it(content: Any, place: Path) -> None:
    torch.save(content, place / "w.pt")
    assert_is_mlp(load(place / "w.pt"))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_whatever_its_name(prefix: str, place: Path) -> None:
    for name in ("w.safetensors", "w.bin"):
        save_file(prefixed(prefix), place / name)
        assert_is_mlp(load(place / name))


def test_a_file_of_an_older_torch(place: Path) -> None:
    torch.save({"state_dict": state()}, place / "w.pt", _use_new_zipfile_serialization=False)
    assert_is_mlp(load(place / "w.pt"))


def test_several_state_dicts_are_told_apart_by_their_key(place: Path) -> None:
    other = dict(mlp(seed=4).state_dict())
    torch.save({"model": state(), "model_ema": other}, place / "w.pt")
    with pytest.raises(NetworkError, match=r"w.pt: several state dicts, model, model_ema: choose with --key"):
        read_state(place / "w.pt")
    assert_is_mlp(load(place / "w.pt", key="model"))
    assert torch.equal(load(place / "w.pt", key="model_ema").state_dict()["1.weight"], other["1.weight"])
    with pytest.raises(NetworkError, match="no state dict under 'ema'; it has model, model_ema"):
        read_state(place / "w.pt", "ema")


def test_half_precision_is_measured_in_single(place: Path) -> None:
    torch.save({name: value.half() for name, value in state().items()}, place / "w.pt")
    weights = load(place / "w.pt").state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert torch.equal(weights["1.weight"], state()["1.weight"].half().float())


def test_what_does_not_fit_is_listed(place: Path) -> None:
    renamed = {name.replace("1.", "first.", 1): value for name, value in state().items()}
    torch.save(renamed | {"3.weight": torch.zeros(10, 7)}, place / "w.pt")
    with pytest.raises(NetworkError) as error:
        load(place / "w.pt")
    assert str(error.value) == (
        f"{place / 'w.pt'} does not fit the network of --model: 2 missing: 1.weight, 1.bias; 2 unexpected: "
        "first.weight, first.bias; 1 of another shape: 3.weight (10, 7) for (10, 6)"
    )
    with pytest.raises(NetworkError, match=r"40 unexpected: x0, x1, x2, x3, x4, x5, x6, x7, and 32 more$"):
        fill(mlp(), state() | {f"x{i}": torch.zeros(1) for i in range(40)}, place / "w.pt")


def test_counters_of_batch_normalisation_may_be_missing(place: Path) -> None:
    own = mlp(norm=True).state_dict()
    torch.save({name: value for name, value in own.items() if "num_batches" not in name}, place / "w.pt")
    network = load(place / "w.pt", norm=True)
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


# ---- files that are refused ---------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_not_run(place: Path) -> None:
    torch.save({"state_dict": state(), "extra": Bomb(place / "boom")}, place / "zip.pt")
    torch.save({"a": Bomb(place / "boom")}, place / "old.pt", _use_new_zipfile_serialization=False)
    (place / "plain.pkl").write_bytes(pickle.dumps(Bomb(place / "boom"), protocol=2))
    for name in ("zip.pt", "old.pt", "plain.pkl"):
        with pytest.raises(NetworkError, match=f"{name}: (refused, as it holds more than tensors|not a checkpoint)"):
            load(place / name)
        assert not (place / "boom").exists()
    torch.load(place / "zip.pt", weights_only=False)
    assert (place / "boom").exists()  # it would have run


def test_a_pickled_network_is_refused_with_a_way_out(place: Path) -> None:
    torch.save(mlp(), place / "w.pt")
    with pytest.raises(NetworkError, match="if you trust it, load it yourself and save its state dict alone"):
        load(place / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a checkpoint of torch or safetensors"),
        (b"this is a text, whatever its name says", "not a checkpoint of torch or safetensors"),
        (b"\x08\0\0\0\0\0\0\0{broken}", "not a checkpoint of torch or safetensors"),
        (b"PK\x03\x04 half a zip", "not a checkpoint of torch or safetensors"),
    ],
    ids=["empty", "text", "safetensors", "zip"],
)
def test_a_file_of_another_kind(content: bytes, message: str, place: Path) -> None:
    (place / "w.pt").write_bytes(content)
    with pytest.raises(NetworkError, match=message) as error:
        load(place / "w.pt")
    assert "\n" not in str(error.value)


def test_a_file_without_a_state_dict(place: Path) -> None:
    torch.save({"epoch": 3, "nested": {"weights": state()}}, place / "a.pt")
    with pytest.raises(NetworkError, match="no state dict, a mapping from names to tensors, in it; it has epoch, nest"):
        load(place / "a.pt")
    torch.save(torch.zeros(3), place / "b.pt")
    with pytest.raises(NetworkError, match="it holds Tensor"):
        load(place / "b.pt")
    with pytest.raises(NetworkError, match="there is no file"):
        load(place / "c.pt")


# ---- functions ----------------------------------------------------------------------------------------------------


def test_a_function_may_take_keywords_and_stand_in_a_class(place: Path) -> None:
    assert load(None, hidden=3)[1].out_features == 3
    assert load(None, "theirs:Zoo.small")[1].out_features == 6
    assert load(None, "torch.nn:Linear", in_features=2, out_features=5).out_features == 5


def test_without_a_file_the_weights_are_the_same_each_time(place: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load(None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), load(None).parameters(), strict=True))


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("theirs", {}, "--model theirs: give package.module:function"),
        ("theirs:", {}, "give package.module:function"),
        ("nobodys:mlp", {}, "--model nobodys:mlp: cannot be imported: ModuleNotFoundError: No module named 'nobodys'"),
        ("theirs:mpl", {}, "cannot be imported: AttributeError: module 'theirs' has no attribute 'mpl'"),
        ("theirs:broken", {}, "--model theirs:broken: the call failed: RuntimeError: no such luck"),
        ("theirs:mlp", {"width": 3}, "the call failed: TypeError: .*width.*; keywords go into --model-args"),
        ("theirs:nothing", {}, "returned str, not a torch.nn.Module"),
    ],
)
def test_functions_that_give_no_network(factory: str, arguments: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(NetworkError, match=message):
        load(None, factory, **arguments)


# ---- classifiers --------------------------------------------------------------------------------------------------


def test_images_are_standardised_before_the_network() -> None:
    x = digits().test.x[:3].float() / 255
    network = mlp().eval()
    plain = as_classifier(mlp(), digits(), (), (), CPU)
    assert torch.equal(plain(x), network(x))
    standardised = as_classifier(mlp(), digits(), (0.25,), (0.5,), CPU)
    torch.testing.assert_close(standardised(x), network((x - 0.25) / 0.5))
    colour = torch.randint(256, (4, 3, 2, 2), generator=seeded(0), dtype=torch.uint8)
    part = Images(colour, torch.zeros(4, dtype=torch.int64))
    splits = Splits(part, part, part, 2, "")
    head = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = as_classifier(head, splits, mean, std, CPU)(colour / 255)
    by_hand = torch.from_numpy((colour.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1)))
    torch.testing.assert_close(found, head(by_hand.float()))


@pytest.mark.parametrize(
    ("network", "mean", "std", "message"),
    [
        (mlp(), (0.1, 0.2, 0.3), (), "--mean: 3 values for images of 1 channels"),
        (mlp(), (), (1.0, 1.0), "--std: 2 values for images of 1 channels"),
        (mlp(), (), (0.0,), "--std: a deviation is above 0"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), (), (), r"gives \(7,\) for an image, the data have 10 classes"),
        (nn.Flatten(0, 2), (), (), "the data have 10 classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), (), (), "cannot take an image of 1 x 8 x 8: RuntimeError"),
    ],
)
def test_what_does_not_fit_the_images(network: nn.Module, mean: Any, std: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        as_classifier(network, digits(), mean, std, CPU)


def test_a_network_of_our_own_goes_through_a_file_unchanged(place: Path) -> None:
    """Its classifier holds the data's statistics: nothing is standardised twice."""
    own = digits_network(seed=4).eval()
    torch.save({"model": own.state_dict()}, place / "w.pt")
    (place / "ours.py").write_text("from tests.workers.toys import digits_network\n")
    found = as_classifier(load(place / "w.pt", "ours:digits_network"), digits(), (), (), CPU)
    x = digits().test.x[:5].float() / 255
    assert torch.equal(found(x), own(x))
    sys.modules.pop("ours", None)
