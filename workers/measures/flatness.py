"""What average- and worst-case flatness share: what is looked at, and what is to be said about the values."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.measures import Flatness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.robust_loss import PerExample, clean_examples, robust_examples
from workers.seeding import generator
from workers.steps import Steps
from workers.weights import Whole, norms, scaled_to

WHOLE = "all tensors"
"""In place of a tensor's name, which has no space: all of them are perturbed together."""
Levels = Mapping[str, float]
"""Robust loss in nats, robust error as a fraction, by `level_name`."""


def images_of(splits: Splits, settings: Flatness) -> dict[str, Images]:
    """The images that the measure is taken on, by the name of their set."""
    every = {"test": splits.test, "train": splits.train}
    return {name: every[name].first(settings.examples) for _, name in settings.columns()}


def level_name(column: tuple[str, str]) -> str:
    """What a column's level is called in `Levels`."""
    return " ".join(column)


def levels(
    model: nn.Module, sets: Mapping[str, Images], settings: Flatness, attack: Attack, seed: int
) -> Steps[dict[str, float]]:
    """The levels of every column at the network's present weights, under `attack`."""
    found: dict[str, float] = {}
    for name, images in sets.items():
        robust = yield from robust_examples.steps(model, images, attack, settings.batch_size, seed)
        found |= levels_at(model, name, images, settings, robust)
    return found


def levels_at(model: nn.Module, name: str, images: Images, settings: Flatness, robust: PerExample) -> dict[str, float]:
    """The levels of one set, given its adversarial examples: wrong is what is wrong on them or clean."""
    found = {level_name(("loss", name)): robust.mean_loss()}
    if settings.quantity != "loss":
        wrong = robust.wrong | clean_examples(model, images, settings.batch_size).wrong
        found[level_name(("error", name))] = float(wrong.double().mean())
    return found


def random_directions(weights: Sequence[Tensor], seed: int, draw: int, of: Whole = "layer") -> list[Tensor]:
    """For each tensor, or each filter of it, a direction uniform on the sphere of its own norm."""
    random = generator(weights[0].device, seed, "direction", draw)
    directions = [torch.empty_like(weight).normal_(generator=random) for weight in weights]
    return scaled_to(directions, norms(weights, of), of)


def groups(model: nn.Module, tensors: Sequence[nn.Parameter], settings: Flatness) -> dict[str, range]:
    """Places of the tensors that are perturbed together, by name: all, and on request each one alone."""
    names = {id(parameter): name for name, parameter in reversed(list(model.named_parameters()))}
    alone = {names[id(tensor)]: range(place, place + 1) for place, tensor in enumerate(tensors)}
    return {WHOLE: range(len(tensors)), **(alone if settings.per_layer else {})}


def array_name(name: str, settings: Flatness, column: tuple[str, str]) -> str:
    """Name of a column's array: with the column's ending where there are several."""
    return name + (settings.suffix(column) if len(settings.columns()) > 1 else "")


def layer_key(key: str, tensor: str) -> str:
    """Name of the array of increases where only one tensor is perturbed."""
    return f"{key}_layer_{tensor}"


def negative_flag(name: str, flatness: float, noise: float, reason: str = "") -> list[str]:
    """Says so where flatness is negative beyond twice its noise: the reference attack was the weaker one."""
    if flatness >= -2 * noise - 1e-6:
        return []
    reason = reason or "the reference's attack found more than the perturbed network's"
    return [f"{name} is negative ({flatness:.3g}): {reason}"]
