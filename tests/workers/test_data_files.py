"""Data sets are read as they were written: digits, npz files, torchvision's files; damaged ones are refused."""

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision import datasets
from toys import CPU

from orchestrator.spec.data import DATA, Data, Digits, Npz
from workers.data.arrays import Arrays, BadArraysError
from workers.data.splits import load_splits
from workers.failures import DataError
from workers.models.classifier import channel_statistics

SHARED = Path(os.environ.get("FLATSWEEP_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def read(spec: Data) -> Arrays:
    arrays: Arrays = spec.load()(spec)
    return arrays


def test_digits_are_scikit_learns() -> None:
    arrays = read(Digits())
    bunch = load_digits()
    assert arrays.x_train.shape == (1797, 8, 8, 1) and arrays.x_train.dtype == np.uint8
    assert (arrays.x_train.min(), arrays.x_train.max()) == (0, 255)
    # 17 grey levels spread over 0 ... 255, so the original can be had back exactly
    np.testing.assert_array_equal(np.rint(arrays.x_train[..., 0] / 255 * 16), bunch.images)
    np.testing.assert_array_equal(arrays.y_train, bunch.target)
    assert arrays.y_train.dtype == np.int64 and arrays.classes == 10 and arrays.x_test is None


# ---- npz -----------------------------------------------------------------------------------------------------------


def good(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(30) % 4,
        "x_test": rng.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
        **changes,
    }


def save(path: Path, compressed: bool = False, **changes: Any) -> Npz:
    arrays = {key: value for key, value in good(**changes).items() if value is not None}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return Npz(path=str(path))


@pytest.mark.parametrize("compressed", [True, False])
def test_npz_gives_what_was_saved(tmp_path: Path, compressed: bool) -> None:
    arrays = read(save(tmp_path / "a.npz", compressed))
    for key, value in good().items():
        np.testing.assert_array_equal(getattr(arrays, key), value)
    assert arrays.classes == 4 and arrays.y_train.dtype == np.int64
    splits = load_splits(Npz(path=str(tmp_path / "a.npz"), validation_size=6), CPU)
    assert splits.shape == (3, 6, 5) and [len(splits.train), len(splits.test)] == [24, 8]
    np.testing.assert_array_equal(splits.test.x.permute(0, 2, 3, 1).numpy(), good()["x_test"])


def test_npz_grey_images_without_a_channel(tmp_path: Path) -> None:
    x = good()["x_train"][..., 0]
    arrays = read(save(tmp_path / "a.npz", x_train=x, x_test=x[:8]))
    np.testing.assert_array_equal(arrays.x_train, x[..., None])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "float pixels": ({"x_train": good()["x_train"] / 255}, "float64"),
    "wide pixels": ({"x_test": good()["x_test"].astype(np.int32)}, "int32"),
    "channels first": ({"x_train": good()["x_train"].transpose(0, 3, 1, 2)}, "expected N x H x W x C"),
    "flat images": ({"x_train": good()["x_train"].reshape(30, -1)}, "expected N x H x W x C"),
    "no images": ({"x_train": good()["x_train"][:0], "y_train": good()["y_train"][:0]}, "shape"),
    "other test shape": ({"x_test": good()["x_test"][:, :4]}, "test images"),
    "float labels": ({"y_train": good()["y_train"] / 1.0}, "integer label"),
    "one-hot labels": ({"y_train": np.eye(4, dtype=int)[good()["y_train"]]}, "integer label"),
    "too few labels": ({"y_test": good()["y_test"][:-1]}, "7 labels for 8 images"),
    "negative label": ({"y_train": good()["y_train"] - 1}, "-1"),
    "test label that training lacks": ({"y_test": good()["y_test"] + 1}, "0 to 3"),
    "missing array": ({"y_test": None}, "lacks y_test"),
    "pickled objects": ({"y_test": np.array([{}] * 8, dtype=object)}, "not a readable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz_is_refused_with_the_file(tmp_path: Path, case: str) -> None:
    changes, text = BAD[case]
    spec = save(tmp_path / "some.npz", **changes)
    with pytest.raises(BadArraysError) as caught:
        read(spec)
    assert str(tmp_path / "some.npz") in str(caught.value) and text in str(caught.value)
    with pytest.raises(DataError, match=r"some\.npz"):
        load_splits(spec, CPU)


def test_npz_label_beyond_the_classes_given(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    save(path)
    assert read(Npz(path=str(path), classes=9)).classes == 9
    with pytest.raises(BadArraysError, match=r"some\.npz: y_train holds labels from 0 to 3, allowed: 0 to 2"):
        read(Npz(path=str(path), classes=3))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello\n" * 100, pickle.dumps({"x_train": 1})])
def test_npz_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(BadArraysError, match=r"some\.npz"):
        read(Npz(path=str(tmp_path / "some.npz")))


def test_npz_that_is_one_array(tmp_path: Path) -> None:
    with (tmp_path / "some.npz").open("wb") as file:
        np.save(file, good()["x_train"])
    with pytest.raises(BadArraysError, match=r"some\.npz"):
        read(Npz(path=str(tmp_path / "some.npz")))


def test_npz_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "some.npz", tmp_path):
        with pytest.raises(BadArraysError, match=str(path)):
            read(Npz(path=str(path)))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), compressed=st.booleans(), truncated=st.booleans())
def test_damaged_npz_is_refused_or_unharmed(
    data: st.DataObject, compressed: bool, truncated: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One flipped bit or a cut anywhere: either the message with the file, or all arrays as they were saved."""
    path = tmp_path_factory.mktemp("damaged") / "some.npz"
    spec = save(path, compressed)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if truncated:
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        arrays = read(spec)
    except BadArraysError as error:
        assert str(path) in str(error)
        return
    assert not truncated
    for key, value in good().items():
        np.testing.assert_array_equal(getattr(arrays, key), value)


# ---- torchvision ---------------------------------------------------------------------------------------------------


def pixels(count: int, *shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


Written = dict[str, np.ndarray]


def write_cifar(root: Path, patch: pytest.MonkeyPatch, cls: Any, files: dict[str, int], label: str) -> Written:
    """Batches as the authors pickled them: rows of 3072 bytes, red plane first. The md5 lists are made to fit."""
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    parts: dict[str, list[np.ndarray]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    listed: dict[str, list[list[str]]] = {"train": [], "test": []}
    for seed, (name, count) in enumerate(files.items()):
        x, y = pixels(count, 32, 32, 3, seed=seed), (np.arange(count) * 3 + seed) % 10
        rows = x.transpose(0, 3, 1, 2).reshape(count, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": rows, label: y.tolist()}))
        part = "test" if "test" in name else "train"
        listed[part].append([name, md5(folder / name)])
        parts[f"x_{part}"].append(x)
        parts[f"y_{part}"].append(y)
    meta = folder / cls.meta["filename"]
    meta.write_bytes(pickle.dumps({cls.meta["key"]: [str(i) for i in range(10)]}))
    patch.setattr(cls, "train_list", listed["train"])
    patch.setattr(cls, "test_list", listed["test"])
    patch.setattr(cls, "meta", {**cls.meta, "md5": md5(meta)})
    return {key: np.concatenate(value) for key, value in parts.items()}


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Written:
    files = {f"data_batch_{i}": 4 for i in range(1, 6)} | {"test_batch": 6}
    return write_cifar(root, patch, datasets.CIFAR10, files, "labels")


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Written:
    return write_cifar(root, patch, datasets.CIFAR100, {"train": 12, "test": 5}, "fine_labels")


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> Written:
    """MATLAB files: images last, the digit 0 labelled 10."""
    written, listed = {}, {}
    for part, count in (("train", 12), ("test", 11)):
        x, y = pixels(count, 32, 32, 3, seed=count), np.arange(count) % 10
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None].astype(np.uint8)})
        listed[part] = ["", path.name, md5(path)]
        written |= {f"x_{part}": x, f"y_{part}": y}
    patch.setattr(datasets.SVHN, "split_list", listed)
    return written


def write_fashion_mnist(root: Path, _patch: pytest.MonkeyPatch) -> Written:
    """IDX files: magic number, sizes in big-endian, then the bytes."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    written = {}
    for part, prefix, count in (("train", "train", 12), ("test", "t10k", 5)):
        x, y = pixels(count, 28, 28, 1, seed=count), np.arange(count) % 10
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + x.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 2049, count) + y.astype(np.uint8).tobytes()
        )
        written |= {f"x_{part}": x, f"y_{part}": y}
    return written


Writer = Callable[[Path, pytest.MonkeyPatch], Written]
WRITERS: dict[str, Writer] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "fashion_mnist": write_fashion_mnist,
}


@pytest.mark.parametrize("name", WRITERS)
def test_torchvision_loaders_give_what_the_files_hold(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = WRITERS[name](tmp_path, monkeypatch)
    spec = DATA.parse({"name": name, "root": str(tmp_path)})
    arrays = read(spec)
    for key, value in written.items():
        found = getattr(arrays, key)
        np.testing.assert_array_equal(found, value, err_msg=key)
        assert found.dtype == (np.uint8 if key.startswith("x") else np.int64)
    assert arrays.classes == (100 if name == "cifar100" else 10)
    splits = load_splits(spec.model_copy(update={"validation_size": 3}), CPU)
    np.testing.assert_array_equal(splits.test.x.permute(0, 2, 3, 1).numpy(), written["x_test"])
    assert len(splits.train) == len(written["y_train"]) - 3


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_torchvision_files_are_refused_with_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    spec = DATA.parse({"name": name, "root": str(tmp_path)})
    largest = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    for keep in (largest.stat().st_size // 2, 3, 0):
        largest.write_bytes(largest.read_bytes()[:keep])
        with pytest.raises(BadArraysError, match=str(tmp_path)):
            read(spec)
    largest.unlink()
    with pytest.raises(BadArraysError, match=f"cannot read {name} under {tmp_path}.*download: true"):
        read(spec)


def test_mnist() -> None:
    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST under {SHARED} (set FLATSWEEP_DATA)")
    arrays = read(DATA.parse({"name": "mnist", "root": str(SHARED)}))
    assert arrays.x_train.shape == (60_000, 28, 28, 1) and arrays.x_test is not None
    assert arrays.x_test.shape == (10_000, 28, 28, 1)
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # training images of each digit
    assert np.bincount(arrays.y_train).tolist() == published
    raw = (SHARED / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    assert arrays.x_train.tobytes() == raw
    assert float(arrays.x_train.mean() / 255) == pytest.approx(0.1307, abs=1e-4)  # as everybody's transforms say
    assert float(arrays.x_train.std() / 255) == pytest.approx(0.3081, abs=1e-4)


def test_real_cifar10_images() -> None:
    path = SHARED / "cifar10_10k_2k.npz"
    if not path.is_file():
        pytest.skip(f"no {path} (set FLATSWEEP_DATA)")
    splits = load_splits(Npz(path=str(path), train_size=9000, validation_size=1000), CPU)
    assert splits.shape == (3, 32, 32) and splits.classes == 10 and len(splits.test) == 2000
    assert torch.bincount(splits.test.y).tolist() == [200] * 10
    mean, std = channel_statistics(splits.train.x)
    published = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(mean, published[0], atol=0.01, rtol=0)
    torch.testing.assert_close(std, published[1], atol=0.01, rtol=0)
