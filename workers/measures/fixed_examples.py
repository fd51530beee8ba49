"""The examples at which curvature is measured: adversarial ones found once at w, or the images as they are."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from orchestrator.spec.curvature_measures import FixedExamples
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.result import Result
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.steps import Steps, stepwise


class Examples(NamedTuple):
    """x: images in [0, 1], N x C x H x W. y: labels, int64, N. loss: mean cross-entropy there in nats."""

    x: Tensor
    y: Tensor
    loss: float


@stepwise
def fixed_examples(
    model: nn.Module, splits: Splits, settings: FixedExamples, attack: Attack, seed: int
) -> Steps[Examples]:
    """The examples that `settings` asks for, found at the network's weights; the same whenever they are found again."""
    images = (splits.test if settings.split == "test" else splits.train).first(settings.examples)
    if settings.loss == "clean":
        found = clean_examples(model, images, settings.batch_size)
    else:
        budget = settings.attack.resolve(attack)
        found = yield from robust_examples.steps(model, images, budget, settings.batch_size, seed)
    return Examples(found.x, images.y, found.mean_loss())


def unmeasured(settings: FixedExamples, examples: Examples) -> Result:
    """The result at weights where the loss is not a number: nothing can be said of its curvature."""
    flag = f"the {settings.loss} loss is {examples.loss} at the trained weights: nothing was measured"
    return Result(dict.fromkeys(settings.keys(), torch.nan), {}, (flag,))
