"""Average-case flatness of the robust loss (Stutz21, equation for the average case; SCIENCE.md section 6)."""

import math

import torch
from torch import Tensor, nn

from orchestrator.spec.measures import AverageFlatness
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.measures.flatness import examples_of, negative_flag
from workers.measures.result import Parts, Result, standard_error
from workers.measures.robust_loss import robust_examples
from workers.seeding import generator
from workers.steps import Steps, stepwise
from workers.weights import perturbed_tensors, restored, scaled_to


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

    All xi share the directions, and all networks of one shape share directions and random starts (equal seeds).

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: xi, draws, attack, protocol.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of directions and random starts.
        parts: draws that are done; those done now are added.

    Returns:
        For each xi the flatness in nats, and under `..._se` its standard error over draws (0 with a single draw).
        Arrays: `draws`, draws x xi, each draw's increase.
    """
    parts = {} if parts is None else parts
    images, budget = examples_of(splits, settings), settings.attack.resolve(attack)
    if "reference" not in parts:
        found = yield from robust_examples.steps(
            model, images, settings.reference_attack(attack), settings.batch_size, seed
        )
        parts["reference"] = found.mean_loss()
    for draw in range(settings.draws):
        if f"draw {draw}" not in parts:
            losses = yield from _perturbed_losses(model, images, settings, budget, seed, draw)
            parts[f"draw {draw}"] = [loss - parts["reference"] for loss in losses]
    increases = torch.tensor([parts[f"draw {draw}"] for draw in range(settings.draws)], dtype=torch.float64)
    values: dict[str, float] = {}
    flags: list[str] = []
    for xi, found_at in zip(settings.xi, increases.T, strict=True):
        mean, error = math.fsum(found_at.tolist()) / len(found_at), standard_error(found_at)
        values |= {settings.key(xi): mean, settings.key(xi) + "_se": error}
        flags += negative_flag(settings.key(xi), mean, error)
    return Result(values, {"draws": increases}, tuple(flags))


def _perturbed_losses(
    model: nn.Module, images: Images, settings: AverageFlatness, attack: Attack, seed: int, draw: int
) -> Steps[list[float]]:
    """Robust loss at one direction, for each xi."""
    losses = []
    parameters = perturbed_tensors(model)
    with restored(parameters) as originals:
        unit = random_directions(originals, seed, draw)
        for xi in settings.xi:
            with torch.no_grad():
                for parameter, original, direction in zip(parameters, originals, unit, strict=True):
                    parameter.copy_(original + xi * direction)
            perturbed = yield from robust_examples.steps(model, images, attack, settings.batch_size, seed)
            losses.append(perturbed.mean_loss())
    return losses


def random_directions(weights: list[Tensor], seed: int, draw: int) -> list[Tensor]:
    """For each tensor a direction uniform on the sphere of the tensor's own norm."""
    random = generator(weights[0].device, seed, "direction", draw)
    directions = [torch.empty_like(weight).normal_(generator=random) for weight in weights]
    return scaled_to(directions, torch._foreach_norm(weights))
