"""Robust loss and error of a network on fixed examples: what all measures of the robust loss are made of."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.training import Attack
from workers.attacks import ascend, cross_entropy_objective, random_start
from workers.data.batches import to_unit
from workers.data.splits import Images
from workers.folding import folded
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise


class PerExample(NamedTuple):
    """Of N examples. loss: cross-entropy in nats, float. wrong: misclassified, bool. x: the examples, N x C x H x W."""

    loss: Tensor
    wrong: Tensor
    x: Tensor

    def mean_loss(self) -> float:
        """Mean loss in nats, summed in double precision."""
        return float(self.loss.double().mean())

    def error(self) -> float:
        """Fraction misclassified."""
        return float(self.wrong.double().mean())


def clean_examples(model: nn.Module, images: Images, batch_size: int) -> PerExample:
    """The network on the images as they are."""
    return at_inputs(model, to_unit(images.x), images.y, batch_size)


@stepwise
def robust_examples(model: nn.Module, images: Images, attack: Attack, batch_size: int, seed: int) -> Steps[PerExample]:
    """The network on adversarial examples of ALL images: per image the restart with the highest loss.

    Random starts are drawn for all images at once, from (seed, restart): neither the batch size nor the weights change
    them, so that two networks, or two weights of one, are compared at the same starts.

    Args:
        model: from images in [0, 1] to logits; attacked in eval mode with frozen parameters.
        images: uint8 images and labels.
        attack: PGD's settings; losses and errors at what it finds are in single precision whatever it says.
        batch_size: images attacked at once; where there are fewer, those of several restarts.
        seed: of the random starts.
    """
    x, y = to_unit(images.x), images.y
    best: PerExample | None = None
    together = max(1, batch_size // max(1, len(y)))  # restarts that fill a batch: few images are slow to attack
    groups = [range(low, min(low + together, attack.restarts)) for low in range(0, attack.restarts, together)]
    total, done = sum(-(-len(group) * len(y) // batch_size) for group in groups), 0
    for group in groups:
        centres, labels = torch.cat([x] * len(group)), y.repeat(len(group))
        found = torch.cat([random_start(x, attack, generator(x.device, seed, "attack", number)) for number in group])
        for low in range(0, len(labels), batch_size):
            part = slice(low, low + batch_size)
            with folded(model, precision=attack.precision):
                found[part] = ascend(
                    model,
                    centres[part],
                    found[part].clone(),
                    cross_entropy_objective(labels[part]),
                    attack,
                    want_value=False,
                )[0]
            yield Tick(done := done + 1, total)
        here = at_inputs(model, found, labels, batch_size)
        for low in range(0, len(labels), len(y)):
            restart = PerExample(*(values[low : low + len(y)] for values in here))
            best = restart if best is None else _worse_for_the_network(best, restart)
    assert best is not None  # noqa: S101  (restarts >= 1)
    return best


def _worse_for_the_network(first: PerExample, second: PerExample) -> PerExample:
    """Of each example the one with the higher loss, the first if both are equal."""
    better = second.loss > first.loss
    return PerExample(
        torch.where(better, second.loss, first.loss),
        torch.where(better, second.wrong, first.wrong),
        torch.where(better[:, None, None, None], second.x, first.x),
    )


def at_inputs(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> PerExample:
    """The network in eval mode at inputs x, N x C x H x W in [0, 1], with labels y, int64, N."""
    losses, wrong = [], []
    with folded(model), torch.no_grad():
        for low in range(0, len(y), batch_size):
            logits, labels = model(x[low : low + batch_size]), y[low : low + batch_size]
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            wrong.append(logits.argmax(1) != labels)
    return PerExample(torch.cat(losses), torch.cat(wrong), x)
