"""Robust and clean loss and error on train and test, and the gaps (SCIENCE.md section 5)."""

from torch import nn

from orchestrator.spec.measures import Robustness
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.steps import Steps, stepwise


@stepwise
def robustness(
    model: nn.Module, splits: Splits, settings: Robustness, *, attack: Attack, seed: int
) -> Steps[dict[str, float]]:
    """Both sets at the same weights with the same attack, so that test minus train is the generalisation gap.

    Args:
        model: from images in [0, 1] to logits.
        splits: the training images are taken un-augmented.
        settings: attack and sizes.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of the random starts.

    Returns:
        `robust_loss_train`, ... as in `settings.keys()`: losses in nats, errors as fractions. A robust error counts
        images that are wrong clean or adversarially.
    """
    values: dict[str, float] = {}
    sets = {"train": splits.train.first(settings.train_examples), "test": splits.test.first(settings.test_examples)}
    for part, images in sets.items():
        clean = clean_examples(model, images, settings.batch_size)
        robust = yield from robust_examples.steps(
            model, images, settings.attack.resolve(attack), settings.batch_size, seed
        )
        values[f"robust_loss_{part}"] = robust.mean_loss()
        values[f"robust_error_{part}"] = float((robust.wrong | clean.wrong).double().mean())
        values[f"clean_loss_{part}"], values[f"clean_error_{part}"] = clean.mean_loss(), clean.error()
    for kind in ("robust_loss", "robust_error", "clean_loss", "clean_error"):
        values[f"{kind}_gap"] = values[f"{kind}_test"] - values[f"{kind}_train"]
    return values
