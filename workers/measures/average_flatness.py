"""Average-case flatness of the robust loss (Stutz21, equation for the average case; SCIENCE.md section 6)."""

import math
import statistics

import torch
from torch import Tensor, nn

from orchestrator.spec.measures import AverageFlatness
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.flatness import examples_of, reference_attack
from workers.measures.robust_loss import robust_examples
from workers.seeding import generator
from workers.steps import Steps, stepwise
from workers.weights import perturbed_tensors, restored, scaled_to


@stepwise
def average_flatness(
    model: nn.Module, splits: Splits, settings: AverageFlatness, *, attack: Attack, seed: int
) -> Steps[dict[str, float]]:
    """mean_s RLoss(w + nu_s) - RLoss(w), nu_s random of length xi * ||w_l|| in every tensor, with PGD run at w + nu_s.

    All xi share the directions, and all networks of one shape share directions and random starts (equal seeds).

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: xi, draws, attack, protocol.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of directions and random starts.

    Returns:
        For each xi the flatness in nats, and under `..._se` its standard error over draws (0 with a single draw).
    """
    images, budget = examples_of(splits, settings), settings.attack.resolve(attack)
    reference = yield from robust_examples.steps(
        model, images, reference_attack(settings, budget), settings.batch_size, seed
    )
    increases: dict[float, list[float]] = {xi: [] for xi in settings.xi}
    parameters = perturbed_tensors(model)
    for draw in range(settings.draws):
        with restored(parameters) as originals:
            unit = random_directions(originals, seed, draw)
            for xi in settings.xi:
                with torch.no_grad():
                    for parameter, original, direction in zip(parameters, originals, unit, strict=True):
                        parameter.copy_(original + xi * direction)
                perturbed = yield from robust_examples.steps(model, images, budget, settings.batch_size, seed)
                increases[xi].append(perturbed.mean_loss() - reference.mean_loss())
    values: dict[str, float] = {}
    for xi, found in increases.items():
        values[settings.key(xi)] = math.fsum(found) / len(found)
        values[settings.key(xi) + "_se"] = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return values


def random_directions(weights: list[Tensor], seed: int, draw: int) -> list[Tensor]:
    """For each tensor a direction uniform on the sphere of the tensor's own norm."""
    random = generator(weights[0].device, seed, "direction", draw)
    directions = [torch.empty_like(weight).normal_(generator=random) for weight in weights]
    return scaled_to(directions, torch._foreach_norm(weights))
