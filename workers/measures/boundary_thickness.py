"""Boundary thickness (Yang et al. 2020, arXiv 2007.05086; the authors' code: github.com/nsfzyzz/boundary_thickness)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.network_measures import BoundaryThickness
from orchestrator.spec.training import Attack
from workers.attacks import pgd
from workers.data.batches import to_unit
from workers.data.splits import Splits
from workers.measures.result import Parts, Result, standard_error
from workers.modes import frozen
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise

FEW = 0.9
"""Where a smaller share of the attacks reaches its class, a flag says so [ours]."""


@stepwise
def boundary_thickness(
    model: nn.Module,
    splits: Splits,
    settings: BoundaryThickness,
    *,
    attack: Attack,  # noqa: ARG001  (its own is part of the definition)
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """E[ |x_r - x_s| * share of t in [0, 1] with alpha < g(x(t)) < beta ], x(t) = t * x_r + (1 - t) * x_s.

    x_r is an image that the network takes for class i, x_s what targeted L2 PGD towards a random other class j makes of
    it, and g = p_i - p_j the difference of the two probabilities: 0 on the boundary between i and j. As in the authors'
    code PGD starts at the image and its last iterate counts, whether it arrived or not. [ours]: j is another class than
    the predicted one rather than the label, which is the same where the image is right; the share is taken at the
    middles of equal pieces.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images; training ones are taken un-augmented.
        settings: alpha, beta, the attack, number of points.
        attack: not used.
        seed: of the classes j; networks share how far j is from i.
        parts: batches that are done; those done now are added.

    Returns:
        `boundary_thickness` (or `..._train`) in units of the pixel range and its standard error over images. Arrays:
        `thickness` and `reached`, whether x_s is taken for class j, one value per image.
    """
    parts = {} if parts is None else parts
    images = (splits.test if settings.split == "test" else splits.train).first(settings.examples)
    random = generator(images.y.device, seed, "target class")
    offsets = torch.randint(1, splits.classes, (len(images),), generator=random, device=images.y.device)
    lows = range(0, len(images), settings.batch_size)
    for number, low in enumerate(lows):
        if f"batch {number}" not in parts:
            here = slice(low, low + settings.batch_size)
            way = Way(model, to_unit(images.x[here]), offsets[here], settings)
            unsure = torch.zeros(len(way.length), dtype=torch.float64, device=way.length.device)
            for point in range(settings.points):
                unsure += way.is_unsure((point + 0.5) / settings.points)
                yield Tick(number * settings.points + point + 1, len(lows) * settings.points)
            lengths = way.length * unsure / settings.points
            parts[f"batch {number}"] = {"thickness": lengths.tolist(), "reached": way.reached.tolist()}
    found = [parts[f"batch {number}"] for number in range(len(lows))]
    thickness = torch.tensor([value for batch in found for value in batch["thickness"]], dtype=torch.float64)
    reached = torch.tensor([value for batch in found for value in batch["reached"]])
    share = float(reached.double().mean())
    flags = (f"only {share:.0%} of the ways end in their class: raise eps or steps",) if share < FEW else ()
    values = dict(zip(settings.keys(), (float(thickness.mean()), standard_error(thickness)), strict=True))
    return Result(values, {"thickness": thickness, "reached": reached}, flags)


class Way:
    """The straight lines from images to what a targeted attack makes of them.

    Args:
        model: from images in [0, 1] to logits.
        x: images, B x C x H x W.
        offsets: from the predicted class to the one that is attacked, B.
        settings: alpha, beta, the attack.
    """

    def __init__(self, model: nn.Module, x: Tensor, offsets: Tensor, settings: BoundaryThickness) -> None:
        self._model, self._settings, self._start = model, settings, x
        with frozen(model), torch.no_grad():
            logits = model(x)
        self._own = logits.argmax(1)
        self._other = (self._own + offsets) % logits.shape[1]
        attack = Attack(
            norm="l2",
            eps=settings.eps,
            step_size=settings.step_size,
            steps=settings.steps,
            random_start=False,
            best_iterate=False,
        )
        nothing = torch.Generator(device=x.device)  # the attack draws nothing
        self._end = pgd(model, x, lambda z: -F.cross_entropy(z, self._other, reduction="none"), attack, nothing)
        self.length = (self._end - x).double().flatten(1).norm(dim=1)
        with frozen(model), torch.no_grad():
            self.reached = model(self._end).argmax(1) == self._other

    def is_unsure(self, share: float) -> Tensor:
        """Whether alpha < p_i - p_j < beta at this share of the way, counted from its end: bool, B."""
        with frozen(self._model), torch.no_grad():
            p = self._model(self._end.lerp(self._start, share)).softmax(1)
        difference: Tensor = (p.gather(1, self._own[:, None]) - p.gather(1, self._other[:, None]))[:, 0]
        return (difference > self._settings.alpha) & (difference < self._settings.beta)
