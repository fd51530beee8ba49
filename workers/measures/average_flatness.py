"""Average-case flatness of the robust loss (Stutz21, equation for the average case; SCIENCE.md section 6)."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.measures import AverageFlatness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.flatness import (
    WHOLE,
    array_name,
    groups,
    images_of,
    layer_key,
    level_name,
    levels,
    negative_flag,
    random_directions,
)
from workers.measures.result import Parts, Result, standard_error
from workers.steps import Steps, stepwise
from workers.weights import perturbed_tensors, restored


@stepwise
def average_flatness(
    model: nn.Module,
    splits: Splits,
    settings: AverageFlatness,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """mean_s RLoss(w + nu_s) - RLoss(w), nu_s random of length xi * ||w_l|| in every tensor, with PGD run at w + nu_s.

    All xi share the directions, and all networks of one shape share directions and random starts (equal seeds). With
    `norm: filter` the length is xi * ||w_f|| in every filter; `quantity` may be the robust error instead of the loss.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: xi, draws, attack, protocol, what is relative to what.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of directions and random starts.
        parts: draws that are done; those done now are added.

    Returns:
        For each xi the flatness in nats (a fraction for the error), and under `..._se` its standard error over draws
        (0 with a single draw). Arrays: `draws`, draws x xi, each draw's increase, with an ending for each of several
        columns; `<value>_layer_<tensor>`, draws, the increase where only that part of nu_s is there.
    """
    parts = {} if parts is None else parts
    sets, budget = images_of(splits, settings), settings.attack.resolve(attack)
    if "at w" not in parts:
        parts["at w"] = yield from levels(model, sets, settings, settings.reference_attack(attack), seed)
    tensors = perturbed_tensors(model)
    together = groups(model, tensors, settings)
    for draw in range(settings.draws):
        for group, places in together.items():
            if f"{group} draw {draw}" not in parts:
                found = yield from _perturbed(model, tensors, places, sets, settings, budget, seed, draw)
                parts[f"{group} draw {draw}"] = found
    return _result(parts, together, settings)


def _perturbed(
    model: nn.Module,
    tensors: Sequence[nn.Parameter],
    places: Sequence[int],
    sets: dict[str, Images],
    settings: AverageFlatness,
    attack: Attack,
    seed: int,
    draw: int,
) -> Steps[list[dict[str, float]]]:
    """Levels at one direction for each xi; only the tensors at `places` are moved."""
    found = []
    with restored(tensors) as originals:
        unit = random_directions(originals, seed, draw, settings.norm)
        for xi in settings.xi:
            with torch.no_grad():
                for place in places:
                    tensors[place].copy_(originals[place] + xi * unit[place])
            here = yield from levels(model, sets, settings, attack, seed)
            found.append(here)
    return found


def _result(parts: Parts, together: Iterable[str], settings: AverageFlatness) -> Result:
    def increases(group: str, column: tuple[str, str]) -> Tensor:
        """Draws x xi."""
        level = level_name(column)
        rows = [parts[f"{group} draw {draw}"] for draw in range(settings.draws)]
        found = [[here[level] - parts["at w"][level] for here in row] for row in rows]
        return torch.tensor(found, dtype=torch.float64)

    values: dict[str, float] = {}
    arrays = {array_name("draws", settings, column): increases(WHOLE, column) for column in settings.columns()}
    flags: list[str] = []
    for place, xi in enumerate(settings.xi):
        for column in settings.columns():
            key, found = settings.key(xi, column), arrays[array_name("draws", settings, column)][:, place]
            mean, error = math.fsum(found.tolist()) / len(found), standard_error(found)
            values |= {key: mean, f"{key}_se": error}
            flags += negative_flag(key, mean, error)
            arrays |= {layer_key(key, name): increases(name, column)[:, place] for name in together if name != WHOLE}
    return Result(values, arrays, tuple(flags))
