"""Images without labels: where they come from, who labels them, how they are mixed into batches."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.spec.data import Digits
from orchestrator.spec.measures import Robustness
from orchestrator.spec.sweep import Evaluation, Trial
from tests.workers.toys import CPU, DATA, trial
from workers import layout
from workers.data.arrays import Arrays
from workers.data.batches import TrainingBatches, to_unit
from workers.data.digits import load as load_digits
from workers.data.splits import Images, Splits, cut, load_splits
from workers.failures import DataError, StorageError
from workers.storage import Folder
from workers.training import Trainer, weights_digest
from workers.trial import run_trial

HIDDEN = {**DATA, "unlabeled": {"size": 120}}
FAST = Evaluation(measures=(Robustness(attack={"steps": 1}, train_examples=20, test_examples=20),))  # type: ignore[arg-type]


def hidden_trial(method: Any = "unlabeled", data: Any = None, **changes: Any) -> Trial:
    spec = trial(method, epochs=2, **changes)
    return Trial.model_validate(spec.model_dump() | {"data": data or HIDDEN})


def pools(labelled: int, others: int) -> tuple[Images, Images]:
    """Images whose first pixel says which they are; pseudo-labels are 1, true ones 0."""
    images = torch.arange(labelled + others, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    y = (torch.arange(labelled + others) >= labelled).long()
    return Images(images[:labelled], y[:labelled]), Images(images[labelled:], y[labelled:])


@pytest.mark.parametrize(("fraction", "counts"), [(0.5, (5, 5)), (0.7, (3, 7)), (0.25, (8, 2)), (0.9, (1, 9))])
def test_every_batch_has_its_share_and_every_labelled_image_comes_once(
    fraction: float, counts: tuple[int, int]
) -> None:
    labelled, others = pools(43, 50)
    batches = TrainingBatches(labelled, Digits(), 10, 0, others, fraction)
    own, further = counts
    assert len(batches) == -(-43 // own)
    seen: Counter[int] = Counter()
    for index in range(len(batches)):
        x, y = batches.batch(3, index)
        left = min(own, 43 - index * own)
        assert Counter(y.tolist()) == {0: left, 1: max(1, round(left * further / own))}
        seen.update((x[:, 0, 0, 0] * 255).round().int().tolist())
    assert {image: seen[image] for image in range(43)} == dict.fromkeys(range(43), 1)
    drawn = [seen[image] for image in range(43, 93)]
    assert max(drawn) - min(drawn) <= 1, "without replacement, round and round"


def test_batches_are_functions_of_seed_epoch_and_index() -> None:
    labelled, others = pools(40, 60)

    def batch(seed: int, epoch: int, index: int) -> list[int]:
        x, _ = TrainingBatches(labelled, Digits(), 10, seed, others, 0.5).batch(epoch, index)
        return [int(value) for value in (x[:, 0, 0, 0] * 255).round()]

    assert batch(0, 1, 2) == batch(0, 1, 2)
    assert len({tuple(batch(*key)) for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]}) == 4
    kinds = [[image >= 40 for image in batch(0, 0, index)] for index in range(8)]
    assert all(kind != sorted(kind) for kind in kinds[:3]), "the two kinds are shuffled among one another"


def test_hidden_images_are_held_out_and_their_labels_never_looked_at() -> None:
    arrays = load_digits(Digits())
    spec = Digits.model_validate({**HIDDEN, "train_size": None})
    splits = cut(arrays, spec)
    assert splits.unlabeled is not None
    parts = (splits.train, splits.validation, splits.test, splits.unlabeled)
    assert sum(map(len, parts)) == len(arrays.x_train) and len(splits.unlabeled) == 120
    together = torch.cat([part.x for part in parts]).flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, arrays.x_train.reshape(1797, 64).tolist()))
    assert (splits.unlabeled.y == -1).all()


def test_the_pseudo_labels_are_the_teachers(tmp_path: Path) -> None:
    spec, root = hidden_trial(), Folder(str(tmp_path))
    teacher = spec.teacher
    assert teacher is not None and teacher.method.name == "standard" and teacher.seed == 0
    assert run_trial(teacher, None, root / teacher.trial_id) == {}
    run_trial(spec, FAST, root / spec.trial_id)

    # the same by hand: the teacher's network on each hidden image, then training on what it says
    splits = load_splits(spec.data, CPU)
    network = Trainer(teacher, splits, root / teacher.trial_id / layout.CHECKPOINTS, CPU).model.eval()
    assert splits.unlabeled is not None
    y = torch.tensor([int(network(to_unit(image[None])).argmax()) for image in splits.unlabeled.x])
    labelled = Splits(splits.train, splits.validation, splits.test, 10, "", Images(splits.unlabeled.x, y))
    by_hand = Trainer(spec, labelled, None, CPU)
    for _ in by_hand.run():
        pass
    trained = Trainer(spec, labelled, root / spec.trial_id / layout.CHECKPOINTS, CPU)
    assert weights_digest(trained.model) == weights_digest(by_hand.model)

    wrong = Trainer(spec, Splits(*parts_of(splits), Images(splits.unlabeled.x, (y + 1) % 10)), None, CPU)
    for _ in wrong.run():
        pass
    assert weights_digest(wrong.model) != weights_digest(by_hand.model), "the labels matter"


def parts_of(splits: Splits) -> tuple[Images, Images, Images, int, str]:
    return splits.train, splits.validation, splits.test, splits.classes, ""


def test_seeds_and_methods_share_a_teacher() -> None:
    specs = [
        hidden_trial(),
        hidden_trial(seed=3),
        hidden_trial({"name": "unlabeled", "over": "trades", "fraction": 0.7}),
        hidden_trial({"name": "awp", "over": {"name": "unlabeled", "over": "trades"}}),
        hidden_trial(regularizers=[{"name": "label_noise", "rate": 0.3}]),
    ]
    assert len({spec.teacher.trial_id for spec in specs if spec.teacher}) == 1
    assert len({spec.trial_id for spec in specs}) == 5
    other = hidden_trial({"name": "unlabeled", "teacher_seed": 1})
    assert other.teacher and other.teacher.trial_id == hidden_trial("standard", seed=1).trial_id
    assert hidden_trial("at").teacher is None


def test_without_its_teacher_a_trial_does_not_start(tmp_path: Path) -> None:
    spec = hidden_trial()
    with pytest.raises(StorageError, match=f"its teacher {spec.teacher.trial_id}"):  # type: ignore[union-attr]
        run_trial(spec, FAST, Folder(str(tmp_path)) / spec.trial_id)


def test_without_pseudo_labels_there_is_no_training() -> None:
    with pytest.raises(ValueError, match="pseudo-labels"):
        Trainer(hidden_trial(), load_splits(hidden_trial().data, CPU), None, CPU)


def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
    random = np.random.default_rng(seed)
    arrays = {"x": random.integers(0, 256, (70, 8, 8), dtype=np.uint8), "y": random.integers(0, 10, 70)} | changes
    path = folder / f"further{seed}.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def with_file(path: Path, **more: Any) -> Digits:
    return Digits.model_validate({**DATA, "unlabeled": {"path": str(path), **more}})


def test_a_file_with_pseudo_labels(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = with_file(path)
    splits = load_splits(data, CPU)
    saved = np.load(path)
    assert splits.unlabeled is not None
    pairs = {(tuple(image.flatten().tolist()), int(label)) for image, label in zip(*splits.unlabeled, strict=True)}
    assert pairs == {(tuple(x.flatten().tolist()), int(y)) for x, y in zip(saved["x"], saved["y"], strict=True)}
    spec = hidden_trial({"name": "unlabeled", "labels": "file"}, data=data.model_dump())
    assert spec.teacher is None
    assert "robust_loss_gap" in run_trial(spec, FAST, Folder(str(tmp_path / "t")) / spec.trial_id)
    assert len(load_splits(with_file(path, size=30), CPU).unlabeled or ()) == 30


def test_the_file_is_part_of_the_datas_digest(tmp_path: Path) -> None:
    digests = {
        load_splits(Digits.model_validate(DATA), CPU).digest,
        load_splits(with_file(write(tmp_path)), CPU).digest,
        load_splits(with_file(write(tmp_path, seed=1)), CPU).digest,
        load_splits(with_file(write(tmp_path, seed=2, y=None)), CPU).digest,
    }
    assert len(digests) == 4


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no labels": ({"y": None}, {}, "has no `y`"),
    "another shape": ({"x": np.zeros((70, 9, 9), np.uint8)}, {}, r"\(9, 9, 1\)"),
    "no images": ({"x": None}, {}, "lacks x; it has y"),
    "floats": ({"x": np.zeros((70, 8, 8))}, {}, "expected uint8"),
    "label beyond the classes": ({"y": np.full(70, 10)}, {}, "allowed: 0 to 9"),
    "too few": ({}, {"size": 71}, "has 70 images, unlabeled.size asks for 71"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(case: str, tmp_path: Path) -> None:
    changes, more, message = BAD[case]
    data = with_file(write(tmp_path, **changes), **more).model_dump()
    spec = hidden_trial({"name": "unlabeled", "labels": "file"}, data=data)
    with pytest.raises(DataError, match=message):
        run_trial(spec, FAST, Folder(str(tmp_path / "t")) / spec.trial_id)


def test_too_few_images_to_hold_out() -> None:
    arrays: Arrays = load_digits(Digits())
    with pytest.raises(DataError, match="and 1100 without labels, train_size asks for 200"):
        cut(arrays, Digits.model_validate({**HIDDEN, "test_size": 600, "unlabeled": {"size": 1100}}))
