"""Robust and clean loss and error against a reference that is written out here."""

from typing import Any

import pytest
import torch
from toys import CPU, digits, naive_pgd

from orchestrator.spec.data import Digits
from orchestrator.spec.measures import Robustness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits, load_splits
from workers.measures.robustness import robustness
from workers.models.classifier import Classifier
from workers.seeding import generator

TRAINING_ATTACK = Attack(eps=0.1)
EVALUATION: dict[str, Any] = {"steps": 4, "step_size": 0.04, "restarts": 2}


def reference(model: Classifier, images: Images, attack: Attack, seed: int) -> dict[str, float]:
    """One image at a time, in float64, at the starts that the seed gives."""
    model = model.double().eval()
    x, y = images.x.double() / 255, images.y
    noise = []
    for restart in range(attack.restarts):
        random = generator(CPU, seed, "attack", restart)
        noise.append(torch.empty(x.shape).uniform_(-attack.eps, attack.eps, generator=random).double())
    totals = dict.fromkeys(("robust_loss", "robust_error", "clean_loss", "clean_error"), 0.0)

    def loss_and_wrong(image: torch.Tensor, label: int) -> tuple[float, bool]:
        with torch.no_grad():
            p = model(image[None])[0].softmax(0)
        return -float(p[label].log()), int(p.argmax()) != label

    for i in range(len(y)):
        clean_loss, clean_wrong = loss_and_wrong(x[i], int(y[i]))
        worst, worst_wrong = -1.0, False
        for start in noise:
            here = slice(i, i + 1)
            found = naive_pgd(model, x[here], y[here], attack, (x[here] + start[here]).clamp(0, 1))
            loss, wrong = loss_and_wrong(found[0], int(y[i]))
            if loss > worst:
                worst, worst_wrong = loss, wrong
        totals["robust_loss"] += worst / len(y)
        totals["robust_error"] += (clean_wrong or worst_wrong) / len(y)
        totals["clean_loss"] += clean_loss / len(y)
        totals["clean_error"] += clean_wrong / len(y)
    return totals


@pytest.mark.parametrize(("best", "batch_size"), [(True, 17), (False, 17), (True, 1000)])
def test_values_equal_a_reference(trained: Classifier, best: bool, batch_size: int) -> None:
    settings = Robustness(
        attack={**EVALUATION, "best_iterate": best}, train_examples=30, test_examples=40, batch_size=batch_size
    )
    values = robustness(trained, digits(), settings, attack=TRAINING_ATTACK, seed=5).values
    assert tuple(sorted(values)) == tuple(sorted(settings.keys()))
    attack = settings.attack.resolve(TRAINING_ATTACK)
    assert attack.eps == TRAINING_ATTACK.eps
    # the sign of a gradient that is nearly zero depends on rounding, so float32 may leave another example
    expected = {
        part: reference(trained, images.first(count), attack, 5)
        for part, images, count in (("train", digits().train, 30), ("test", digits().test, 40))
    }
    for kind in ("robust_loss", "robust_error", "clean_loss", "clean_error"):
        for part in ("train", "test"):
            assert values[f"{kind}_{part}"] == pytest.approx(expected[part][kind], rel=1e-3, abs=1e-6), (kind, part)
        gap = expected["test"][kind] - expected["train"][kind]
        assert values[f"{kind}_gap"] == pytest.approx(gap, rel=2e-3, abs=1e-3)
        assert values[f"{kind}_gap"] == values[f"{kind}_test"] - values[f"{kind}_train"]
    assert values["robust_error_test"] > values["clean_error_test"]


class Fooled(torch.nn.Module):
    """Two classes told by the sign of the mean pixel's distance to a threshold; only its slope is seen by PGD."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(mean), self.slope * (mean - 0.5)], 1)


def grey(levels: list[int], labels: list[int]) -> Splits:
    part = Images(torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.tensor(labels))
    return Splits(part, part, part, 2, "")


def test_error_by_hand() -> None:
    """Threshold 0.5, eps 0.1: safely right, right but foolable, wrong in any case, wrong on the clean image."""
    splits = grey([255, 140, 10, 120], [1, 1, 1, 1])
    settings = Robustness(attack={"steps": 10, "step_size": 0.05})
    values = robustness(Fooled(20.0), splits, settings, attack=TRAINING_ATTACK, seed=0).values
    assert values["clean_error_test"] == 0.5
    assert values["robust_error_test"] == 0.75
    assert values["robust_error_gap"] == 0


def test_wrong_clean_counts_even_when_the_attack_helps() -> None:
    """Label 0's loss grows with the score, whose gradient points the wrong way round at the clean image: PGD ends
    where the image is classified correctly, but the clean image is wrong and so the example counts as an error."""

    class Trap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(40.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            distance = (x.mean((1, 2, 3)) - 0.5).abs()
            # wrong by a little in the middle, a downward barrier next to it, right everywhere outside
            score = torch.where(distance < 0.001, 0.2 + 0 * distance, -self.gain * (0.2 - distance))
            return torch.stack([torch.zeros_like(score), score], 1)

    part = Images(torch.full((3, 1, 1, 1), 127, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    shifted = Splits(part, part, part, 2, "")

    class Centred(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trap = Trap()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.trap(x + 0.5 - 127 / 255)

    settings = Robustness(attack={"steps": 3, "step_size": 0.03, "best_iterate": False})
    values = robustness(Centred(), shifted, settings, attack=TRAINING_ATTACK, seed=0).values
    assert values["clean_error_test"] == 1.0
    assert values["robust_loss_test"] < values["clean_loss_test"]  # the attack did help
    assert values["robust_error_test"] == 1.0


def test_training_images_are_not_augmented(trained: Classifier) -> None:
    plain = Digits(train_size=60, validation_size=50, test_size=60)
    augmented = plain.model_copy(update={"augmentation": "crop_flip"})
    settings = Robustness(attack={"steps": 2})
    first, second = (
        robustness(trained, load_splits(spec, CPU), settings, attack=TRAINING_ATTACK, seed=0).values
        for spec in (plain, augmented)
    )
    assert first == second


def test_fewer_images_than_asked_for_and_every_batch_size(trained: Classifier) -> None:
    values = [
        robustness(
            trained, digits(), Robustness(attack={"steps": 2}, batch_size=size), attack=TRAINING_ATTACK, seed=0
        ).values
        for size in (1000, 33)
    ]
    for key, value in values[0].items():
        assert value == pytest.approx(values[1][key], rel=1e-4, abs=1e-6)


def test_order_of_examples_matters_by_little(trained: Classifier) -> None:
    """Random starts go by position, so another order is another draw of starts, not another result."""
    part = digits().test
    turned = Images(part.x.flip(0), part.y.flip(0))
    settings = Robustness(attack={"steps": 10, "step_size": 0.03})
    first, second = (
        robustness(trained, Splits(p, p, p, 10, ""), settings, attack=TRAINING_ATTACK, seed=0).values
        for p in (part, turned)
    )
    assert first["clean_error_test"] == second["clean_error_test"]
    assert first["clean_loss_test"] == pytest.approx(second["clean_loss_test"], rel=1e-5)
    assert first["robust_loss_test"] == pytest.approx(second["robust_loss_test"], rel=0.03)
    assert first["robust_error_test"] == pytest.approx(second["robust_error_test"], abs=0.03)
