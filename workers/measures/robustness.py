"""Robust and clean loss and error on train and test, and the gaps (SCIENCE.md section 5)."""

import math

from torch import Tensor, nn

from orchestrator.spec.measures import KINDS, Robustness
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.result import Parts, Result, standard_error
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.steps import Steps, stepwise


@stepwise
def robustness(
    model: nn.Module,
    splits: Splits,
    settings: Robustness,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,  # noqa: ARG001  (an attack on two sets is one piece)
) -> Steps[Result]:
    """Both sets at the same weights with the same attack, so that test minus train is the generalisation gap.

    Args:
        model: from images in [0, 1] to logits.
        splits: the training images are taken un-augmented.
        settings: attack and sizes.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of the random starts.
        parts: not used.

    Returns:
        `robust_loss_train`, ... as in `settings.keys()`: losses in nats, errors as fractions, each with its standard
        error over examples, `..._se`. A robust error counts images that are wrong clean or adversarially. Arrays:
        `robust_loss_train`, ... one value per example.
    """
    arrays: dict[str, Tensor] = {}
    flags: list[str] = []
    sets = {"train": splits.train.first(settings.train_examples), "test": splits.test.first(settings.test_examples)}
    for part, images in sets.items():
        clean = clean_examples(model, images, settings.batch_size)
        robust = yield from robust_examples.steps(
            model, images, settings.attack.resolve(attack), settings.batch_size, seed
        )
        arrays |= {
            f"robust_loss_{part}": robust.loss,
            f"robust_error_{part}": robust.wrong | clean.wrong,
            f"clean_loss_{part}": clean.loss,
            f"clean_error_{part}": clean.wrong,
        }
        if robust.mean_loss() < clean.mean_loss():
            flags.append(f"the attack lowered the loss on {part} images: too few steps, or too short ones")
    values: dict[str, float] = {}
    for kind in KINDS:
        train, test = arrays[f"{kind}_train"].double(), arrays[f"{kind}_test"].double()
        means, errors = (float(train.mean()), float(test.mean())), (standard_error(train), standard_error(test))
        values |= {f"{kind}_train": means[0], f"{kind}_test": means[1], f"{kind}_gap": means[1] - means[0]}
        values |= {f"{kind}_train_se": errors[0], f"{kind}_test_se": errors[1], f"{kind}_gap_se": math.hypot(*errors)}
    return Result(values, arrays, tuple(flags))
