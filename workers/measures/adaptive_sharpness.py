"""Adaptive and plain sharpness, average and worst case (Andriushchenko23; SCIENCE.md section 7)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from orchestrator.spec.curvature_measures import AdaptiveSharpness
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.auto_pgd import AutoPgd
from workers.measures.fixed_examples import Examples, fixed_examples, unmeasured
from workers.measures.hessian import differentiated
from workers.measures.result import Parts, Result, standard_error
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise
from workers.weights import perturbed_tensors, restored


@stepwise
def adaptive_sharpness(
    model: nn.Module,
    splits: Splits,
    settings: AdaptiveSharpness,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """Average: E L(w + rho |w| g) - L(w), g ~ N(0, I). Worst: max L(w + |w| u) - L(w), ||u||_p <= rho, p = inf or 2.

    Every convolution and linear weight and bias is perturbed, normalisation parameters are not; the model is in eval
    mode. The robust loss is taken at adversarial examples that are found at w and do not move with the weights. The
    worst case is found for each chunk of images by itself and averaged; auto-PGD climbs in u [ours; the released code
    takes its l2 steps in w and projects to the ellipsoid there], starting at 0.

    Args:
        model: from images in [0, 1] to logits.
        splits: the images.
        settings: radii, draws, steps, chunks, loss; `adaptive: false` has 1 in the place of |w|.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of the noise and of the attack's random starts; networks of one shape share the noise.
        parts: draws and chunks that are done; those done now are added. Adversarial examples are found again.

    Returns:
        Increases of the mean loss in nats; the average ones with their standard errors over draws. Arrays: `draws`,
        draws x radii, and `linf`, `l2`, radii x chunks, each one's increase. Flags: losses that are not finite.
    """
    parts = {} if parts is None else parts
    examples = yield from fixed_examples.steps(model, splits, settings, attack, seed)
    if not math.isfinite(examples.loss):
        return unmeasured(settings, examples)
    values: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    if settings.average_rho:
        draws = yield from _averages(model, examples, settings, seed, parts)
        arrays["draws"] = draws
        for rho, increases in zip(settings.average_rho, draws.T, strict=True):
            values[settings.average_key(rho)] = float(increases.mean())
            values[settings.average_key(rho) + "_se"] = standard_error(increases)
    worst: dict[str, list[Tensor]] = {}
    for norm, rho in settings.worst():
        increases, mean = yield from _worst_mean(model, examples, settings, norm, rho, parts)
        values[settings.worst_key(norm, rho)] = mean
        worst.setdefault(norm, []).append(increases)
    arrays |= {norm: torch.stack(rows) for norm, rows in worst.items()}
    odd = [key for key, value in values.items() if not math.isfinite(value)]
    flags = (f"the loss is not finite at perturbed weights: {', '.join(odd)}",) if odd else ()
    return Result(values, arrays, flags)


def _averages(
    model: nn.Module, examples: Examples, settings: AdaptiveSharpness, seed: int, parts: Parts
) -> Steps[Tensor]:
    """Increase of the mean loss for each draw and radius, float64."""
    parameters = perturbed_tensors(model)
    names = [f"draw {draw}" for draw in range(settings.draws)]
    if any(name not in parts for name in names):
        with differentiated(model, ()):
            reference = _mean_loss(model, examples, settings)
    for draw, name in enumerate(names):
        if name in parts:
            continue
        found = []
        with differentiated(model, ()), restored(parameters) as originals, torch.no_grad():
            random = generator(originals[0].device, seed, "noise", draw)
            noise = [torch.empty_like(weight).normal_(generator=random) for weight in originals]
            if settings.adaptive:
                torch._foreach_mul_(noise, originals)  # the sign of a weight does not matter to noise
            for rho in settings.average_rho:
                _set(parameters, torch._foreach_add(originals, noise, alpha=rho))
                found.append(_mean_loss(model, examples, settings) - reference)
        parts[name] = found
        yield Tick(draw + 1, settings.draws)
    return torch.tensor([parts[name] for name in names], dtype=torch.float64)


def _worst_mean(
    model: nn.Module, examples: Examples, settings: AdaptiveSharpness, norm: str, rho: float, parts: Parts
) -> Steps[tuple[Tensor, float]]:
    """Largest increase in each chunk, float64, and their mean, each chunk counted by its size."""
    found, sizes = [], []
    for index, low in enumerate(range(0, len(examples.y), settings.chunk)):
        chunk, name = slice(low, low + settings.chunk), f"{norm} rho {rho:g} chunk {index}"
        if name not in parts:
            parts[name] = yield from _worst(model, examples, chunk, settings, norm, rho)
        found.append(parts[name])
        sizes.append(len(examples.y[chunk]))
    increases = torch.tensor(found, dtype=torch.float64)
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return increases, float((increases * weights).sum())


def _worst(
    model: nn.Module, examples: Examples, chunk: slice, settings: AdaptiveSharpness, norm: str, rho: float
) -> Steps[float]:
    """Largest increase of the mean loss over one chunk that the ascent finds; NaN where a loss is not finite."""
    parameters = perturbed_tensors(model)
    part = Examples(examples.x[chunk], examples.y[chunk], math.nan)
    with restored(parameters) as originals, differentiated(model, parameters):
        scales = [weight.abs() if settings.adaptive else torch.ones_like(weight) for weight in originals]
        ascent = AutoPgd([torch.zeros_like(weight) for weight in originals], norm, rho, settings.steps)
        first = math.nan
        for step in range(settings.steps + 1):
            _set(parameters, torch._foreach_addcmul(originals, scales, ascent.point))
            value, gradient = _loss_and_gradient(model, part, settings, parameters, step < settings.steps)
            if not math.isfinite(value):
                return math.nan
            first = value if step == 0 else first
            ascent.seen(value, torch._foreach_mul(gradient, scales) if gradient else [])
            yield Tick(step + 1, settings.steps + 1)
    return ascent.best_value - first


def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_([*parameters], [*values])


def _loss_and_gradient(
    model: nn.Module, part: Examples, settings: AdaptiveSharpness, parameters: list[nn.Parameter], wanted: bool
) -> tuple[float, list[Tensor]]:
    """Mean loss, and its gradient if wanted, summed over batches."""
    if not wanted:
        return _mean_loss(model, part, settings), []
    total = torch.zeros((), dtype=torch.float64, device=part.y.device)
    gradient: list[Tensor] = []
    for low in range(0, len(part.y), settings.batch_size):
        batch = slice(low, low + settings.batch_size)
        losses = _losses(model(part.x[batch]), part.y[batch], settings)
        found = torch.autograd.grad(losses.sum() / len(part.y), parameters, materialize_grads=True)
        total += losses.detach().double().sum()
        gradient = [old + new for old, new in zip(gradient, found, strict=True)] if gradient else list(found)
    return float(total / len(part.y)), gradient


def _mean_loss(model: nn.Module, examples: Examples, settings: AdaptiveSharpness) -> float:
    total = torch.zeros((), dtype=torch.float64, device=examples.y.device)
    with torch.no_grad():
        for low in range(0, len(examples.y), settings.batch_size):
            batch = slice(low, low + settings.batch_size)
            total += _losses(model(examples.x[batch]), examples.y[batch], settings).double().sum()
    return float(total) / len(examples.y)


def _losses(logits: Tensor, y: Tensor, settings: AdaptiveSharpness) -> Tensor:
    """Cross-entropy of each example in nats, N."""
    return F.cross_entropy(normalised(logits) if settings.normalised_logits else logits, y, reduction="none")


def normalised(logits: Tensor) -> Tensor:
    """(z - mean z) / max(||z - mean z||_2, 1e-10) of each example (Andriushchenko23)."""
    centred = logits - logits.mean(1, keepdim=True)
    norms: Tensor = centred.norm(dim=1, keepdim=True)
    return centred / norms.clamp_min(1e-10)
