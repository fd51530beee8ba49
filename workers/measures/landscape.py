"""The loss along random filter-normalised directions through the weights (Wu20; Li et al. 2018, arXiv 1712.09913)."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.spec.landscape_measures import Landscape
from orchestrator.spec.measures import KINDS
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.result import Parts, Result, standard_error
from workers.measures.robust_loss import PerExample, at_inputs, clean_examples, robust_examples
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise
from workers.weights import norms, perturbed_tensors, restored, scaled_to

Array = NDArray[np.float64]
Point = tuple[float, ...]
ORIGIN = "origin"


@stepwise
def landscape(
    model: nn.Module,
    splits: Splits,
    settings: Landscape,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """g(alpha) = RLoss(w + alpha * d), or over two directions, with d Gaussian and filter-normalised.

    In every convolution kernel and matrix each filter of d, a slice along the first dimension, has the norm of that
    filter of w; biases and normalisation parameters stay (the rule of Li et al.'s and Wu20's figures). Networks of one
    shape share the Gaussian draws and the attack's random starts.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: dimensions, points, attack.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of directions and random starts.
        parts: points that are done; those done now are added.

    Returns:
        Over the lines through w (the draws; in two dimensions both axes of each draw) the means, with their standard
        errors, of: the rise (g(a) + g(-a)) / 2 - g(0) at a = `rise_at`, in nats, of the robust and of the clean loss,
        linear between points; and the width of the interval around 0 in which the robust loss is less than `level`
        above g(0), cut at +-reach. Arrays: `alpha`, the points of each axis; `robust_loss`, `robust_error`,
        `clean_loss`, `clean_error`, draws x points (x points). An error counts what is wrong clean or adversarially.
    """
    parts = {} if parts is None else parts
    images = (splits.test if settings.split == "test" else splits.train).first(settings.examples)
    probe = Probe(model, images, settings, settings.attack.resolve(attack), seed)
    points = list(itertools.product(settings.alphas(), repeat=settings.dimensions))
    names = [[_name(draw, index, point) for index, point in enumerate(points)] for draw in range(settings.draws)]
    if any(name not in parts for name in itertools.chain(*names)):
        yield from probe.prepare()
        for draw in range(settings.draws):
            yield from _measure(probe, dict(zip(names[draw], points, strict=True)), draw, parts)
    shape = (settings.draws, *[settings.points] * settings.dimensions)
    found = np.array([[parts[name] for name in row] for row in names])
    arrays = {kind: found[..., index].reshape(shape) for index, kind in enumerate(KINDS)}
    values, flags = summary(arrays, settings)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return Result(values, {"alpha": torch.tensor(settings.alphas(), dtype=torch.float64), **tensors}, flags)


def _name(draw: int, index: int, point: Point) -> str:
    """Under which a point's values are kept; the origin belongs to all draws."""
    return f"draw {draw} point {index}" if any(point) else ORIGIN


class Probe:
    """What is measured at a point: the losses and errors of `KINDS` at the network's present weights.

    Args:
        model: its weights are moved by the caller.
        images: the examples.
        settings: where to attack, batch size.
        attack: the complete attack.
        seed: of its random starts and of the directions.
    """

    def __init__(self, model: nn.Module, images: Images, settings: Landscape, attack: Attack, seed: int) -> None:
        self.model, self.images, self.settings, self.attack, self.seed = model, images, settings, attack, seed
        self._kept: Tensor | None = None

    def prepare(self) -> Steps[None]:
        """Finds the examples that are kept for all points, if any, at the present weights."""
        if self.settings.attack_at == "origin":
            found = yield from self._attacked()
            self._kept = found.x

    def here(self) -> Steps[list[float]]:
        """Robust loss, robust error, clean loss, clean error."""
        clean = clean_examples(self.model, self.images, self.settings.batch_size)
        if self._kept is None:
            robust = yield from self._attacked()
        else:
            robust = at_inputs(self.model, self._kept, self.images.y, self.settings.batch_size)
        wrong = float((robust.wrong | clean.wrong).double().mean())
        return [robust.mean_loss(), wrong, clean.mean_loss(), clean.error()]

    def _attacked(self) -> Steps[PerExample]:
        return robust_examples.steps(self.model, self.images, self.attack, self.settings.batch_size, self.seed)


def _measure(probe: Probe, points: dict[str, Point], draw: int, parts: Parts) -> Steps[None]:
    """Adds what is missing of one draw's points to `parts`."""
    kernels = [tensor for tensor in perturbed_tensors(probe.model) if tensor.dim() > 1]
    with restored(kernels) as originals:
        axes = range(probe.settings.dimensions)
        directions = [filter_normalised(originals, probe.seed, draw, axis) for axis in axes]
        for index, (name, point) in enumerate(points.items()):
            if name in parts:
                continue
            with torch.no_grad():
                for kernel, original, *along in zip(kernels, originals, *directions, strict=True):
                    kernel.copy_(original + sum(share * d for share, d in zip(point, along, strict=True)))
            parts[name] = yield from probe.here()
            yield Tick(index + 1, len(points))


def filter_normalised(weights: Sequence[Tensor], seed: int, draw: int, axis: int) -> list[Tensor]:
    """A Gaussian direction in which each filter has the norm of that filter of the weights."""
    random = generator(weights[0].device, seed, "landscape", draw, axis)
    gaussian = [torch.empty_like(weight).normal_(generator=random) for weight in weights]
    return scaled_to(gaussian, norms(weights, "filter"), "filter")


def summary(arrays: dict[str, Array], settings: Landscape) -> tuple[dict[str, float], tuple[str, ...]]:
    """The values of `settings.keys()` from the arrays over the points, and what must be said about them."""
    robust, clean = arrays["robust_loss"], arrays["clean_loss"]
    sides = [side for line in lines(robust) for side in half_widths(line, settings)]
    widths = np.reshape([length for length, _ in sides], (-1, 2)).sum(1)
    found = {
        settings.key("rise"): [rise(line, settings) for line in lines(robust)],
        settings.key("clean_rise"): [rise(line, settings) for line in lines(clean)],
        settings.key("width"): list(widths),
    }
    values: dict[str, float] = {}
    for key, over_lines in found.items():
        values |= {key: math.fsum(over_lines) / len(over_lines), f"{key}_se": standard_error(torch.tensor(over_lines))}
    flags = []
    if beyond := sum(not crossed for _, crossed in sides):
        flags.append(
            f"{settings.key('width')} is a lower bound: the loss rises by less than {settings.level:g} up to "
            f"|alpha| = {settings.reach:g} on {beyond} of {len(sides)} sides"
        )
    if odd := int((~np.isfinite(robust)).sum()):
        flags.append(f"the robust loss is not finite at {odd} of {robust.size} points")
    if settings.attack_at == "point" and (lowered := int((robust < clean).sum())):
        flags.append(
            f"the attack lowered the loss at {lowered} of {robust.size} points: too few steps, or too short ones"
        )
    return values, tuple(flags)


def lines(values: Array) -> list[Array]:
    """The curves through the origin along the axes: each draw's curve, or both axes of each draw's surface."""
    if values.ndim == 2:
        return list(values)
    middle = values.shape[1] // 2
    return [line for surface in values for line in (surface[:, middle], surface[middle])]


def rise(line: Array, settings: Landscape) -> float:
    """(g(a) + g(-a)) / 2 - g(0) at a = `rise_at`, linear between points."""
    both = np.interp([-settings.rise_at, settings.rise_at], settings.alphas(), line)
    return float(both.mean() - line[len(line) // 2])


def half_widths(line: Array, settings: Landscape) -> list[tuple[float, bool]]:
    """On each side of 0 how far the loss stays less than `level` above g(0), and whether it rises further at all."""
    middle = len(line) // 2
    alphas, above = settings.alphas()[middle:], line - line[middle] - settings.level
    found = []
    for side in (above[middle::-1], above[middle:]):
        after = next((index for index, excess in enumerate(side) if not excess < 0), None)
        if after is None:
            found.append((settings.reach, False))
            continue
        step = alphas[after] - alphas[after - 1]
        share = float(-side[after - 1] / (side[after] - side[after - 1]))
        found.append((alphas[after - 1] + step * share, True))
    return found
