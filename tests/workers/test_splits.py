"""Training, validation and test images: disjoint, complete, cut by the split's own seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from toys import CPU, numbered, numbers

from orchestrator.spec.data import Digits
from workers.data.splits import cut, load_splits
from workers.failures import DataError


@settings(max_examples=60, deadline=None)
@given(
    train=st.integers(20, 300),
    test=st.integers(5, 60) | st.none(),
    train_size=st.integers(1, 100) | st.none(),
    validation_size=st.integers(0, 50),
    test_size=st.integers(1, 50) | st.none(),
    split_seed=st.integers(0, 5),
)
def test_cut(
    train: int, test: int | None, train_size: int | None, validation_size: int, test_size: int | None, split_seed: int
) -> None:
    spec = Digits(train_size=train_size, validation_size=validation_size, test_size=test_size, split_seed=split_seed)
    arrays = numbered(train, test)
    left = train - validation_size - ((test_size or 0) if test is None else 0)
    impossible = left < (train_size or 1) or (test is None and test_size is None)
    if impossible or (test is not None and (test_size or 0) > test):
        with pytest.raises(DataError):
            cut(arrays, spec)
        return
    splits = cut(arrays, spec)
    parts = [numbers(part) for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [train_size or left, validation_size, test_size or test]
    everything = [number for part in parts for number in part]
    assert len(set(everything)) == len(everything)  # disjoint, and no image twice
    if test is not None:
        assert all(number >= 10_000 for number in parts[2]) and all(n < 10_000 for n in parts[0] + parts[1])
    again = cut(arrays, spec)
    assert [numbers(part) for part in (again.train, again.validation, again.test)] == parts


def test_split_seed_decides_and_subsets_are_random() -> None:
    arrays = numbered(1000, 500)
    spec = Digits(train_size=100, validation_size=100, test_size=100)
    first, second = (cut(arrays, spec.model_copy(update={"split_seed": seed})) for seed in (0, 1))
    for part in ("train", "validation", "test"):
        one, two = set(numbers(getattr(first, part))), set(numbers(getattr(second, part)))
        assert len(one & two) < 50
    larger = cut(arrays, spec.model_copy(update={"train_size": 200}))
    assert numbers(larger.train)[:100] == numbers(first.train)  # and nothing else changes
    assert numbers(larger.test) == numbers(first.test) and numbers(larger.validation) == numbers(first.validation)


def test_first_and_length_count_images() -> None:
    part = cut(numbered(50, 20), Digits(validation_size=5, test_size=10)).test
    assert len(part) == 10 and len(part.first(3)) == 3 and len(part.first(99)) == 10
    assert numbers(part.first(3)) == numbers(part)[:3]


def test_the_trials_seed_changes_no_split() -> None:
    """The spec of the data holds no other seed than its own, and loading takes nothing else."""
    splits = load_splits(Digits(), CPU)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1000, 197, 600]
    assert splits.shape == (1, 8, 8) and splits.classes == 10
    x = torch.cat([splits.train.x, splits.validation.x, splits.test.x]).permute(0, 2, 3, 1).numpy()
    together = {np.rint(image[..., 0] / 255 * 16).tobytes() for image in x}
    assert together == {image.tobytes() for image in load_digits().images}


def test_digest_sees_every_pixel_and_label() -> None:
    digests = {
        numbered(20, 5).digest(),
        numbered(20, 6).digest(),
        numbered(21, 5).digest(),
        numbered(20, None).digest(),
    }
    for field in ("x_train", "y_train", "x_test", "y_test"):
        arrays = numbered(20, 5)
        getattr(arrays, field).reshape(-1)[-1] += 1
        digests.add(arrays.digest())
    assert len(digests) == 8
    assert numbered(20, 5).digest() == numbered(20, 5).digest()
