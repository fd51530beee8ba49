"""The Weight-Curvature Index (WCI24, in our reading; SCIENCE.md section 7)."""

import math

import torch
from torch import Tensor, nn

from orchestrator.spec.curvature_measures import WeightCurvatureIndex
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.estimated_traces import estimated_traces
from workers.measures.fixed_examples import Examples, fixed_examples, unmeasured
from workers.measures.gauss_newton import gauss_newton_traces
from workers.measures.hessian import Hessian, curvature_tensors, differentiated
from workers.measures.remainder import why_not_exact
from workers.measures.result import Parts, Result
from workers.measures.trace import hutchinson
from workers.steps import Steps, stepwise

ROUND = 10
"""Probes between two looks at the standard error."""


@stepwise
def wci(
    model: nn.Module,
    splits: Splits,
    settings: WeightCurvatureIndex,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """sum_l sqrt(||W_l||_F^2 * max(Tr H_l, 0)), H_l the diagonal block of weight tensor l in the loss's Hessian.

    This is our reading of Xu & Zhang 2024 (WCI24, arXiv 2410.07719), whose constants could not be checked.

    Args:
        model: from images in [0, 1] to logits; differentiated in eval mode.
        splits: the images.
        settings: loss, images, exact or estimated traces, accuracy.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of random starts of the attack, and of probes.
        parts: batches or probes that are done; those done now are added. Adversarial examples are found again.

    Returns:
        `wci` and its standard error over probes (0 where the traces are exact). Arrays, one value per tensor with more
        than one dimension, in the order of the network's parameters: `layer_traces`, which may be negative where
        estimated, `layer_traces_se`, `layer_norms`. Flags: traces that had to be estimated, an accuracy not reached.
    """
    parts = {} if parts is None else parts
    examples = yield from fixed_examples.steps(model, splits, settings, attack, seed)
    if not math.isfinite(examples.loss):
        return unmeasured(settings, examples)
    tensors = curvature_tensors(model)
    norms = torch.stack([tensor.detach().double().norm() for tensor in tensors]).cpu()
    with differentiated(model, tensors):
        reason = why_not_exact(model, tensors, examples.x, seed) if settings.traces == "exact" else ""
        if reason is None:
            traces = yield from gauss_newton_traces.steps(model, tensors, examples.x, settings.batch_size, parts)
            forms = traces[None]
        else:
            forms = yield from _estimated(model, tensors, examples, norms, settings, seed, parts)
    flags = [f"the traces are estimated with {len(forms)} probes: {reason}"] if reason else []
    index, error = index_of(forms, norms)
    if error > settings.standard_error * abs(index):
        flags.append(f"{settings.key('wci')} is less accurate than asked for: {index:.3g} +- {error:.2g}")
    spread = forms.std(0) / math.sqrt(len(forms)) if len(forms) > 1 else torch.zeros_like(norms)
    arrays = {"layer_traces": forms.mean(0), "layer_traces_se": spread, "layer_norms": norms}
    return Result({settings.key("wci"): index, settings.key("wci") + "_se": error}, arrays, tuple(flags))


def _estimated(
    model: nn.Module,
    tensors: list[nn.Parameter],
    examples: Examples,
    norms: Tensor,
    settings: WeightCurvatureIndex,
    seed: int,
    parts: Parts,
) -> Steps[Tensor]:
    """Probes x tensors, until the index is as accurate as asked for or the probes are used up."""
    hessian = Hessian(model, tensors, examples.x, examples.y, settings.batch_size)
    rounds: list[Tensor] = []
    done = 0
    while True:
        probes = range(done, min(done + ROUND, settings.max_probes))
        if settings.traces == "hutchinson":
            found = yield from hutchinson.steps(hessian, seed, probes, parts, settings.max_probes)
        else:
            found = yield from estimated_traces.steps(
                model, tensors, examples.x, examples.y, settings.batch_size, seed, probes, parts
            )
        rounds.append(found)
        forms, done = torch.cat(rounds), probes.stop
        index, error = index_of(forms, norms)
        if error <= settings.standard_error * abs(index) or done == settings.max_probes:
            return forms


def index_of(forms: Tensor, norms: Tensor) -> tuple[float, float]:
    """The index, and its standard error by the jackknife, which knows of square roots, cuts at 0 and correlations.

    Args:
        forms: estimates of each tensor's trace, probes x tensors; one row for exact traces.
        norms: Frobenius norm of each tensor.
    """
    index = float(_index(forms.mean(0), norms))
    count = len(forms)
    if count == 1:
        return index, 0.0
    left_out = (forms.sum(0) - forms) / (count - 1)
    indices = _index(left_out, norms)
    return index, math.sqrt((count - 1) / count * float((indices - indices.mean()).square().sum()))


def _index(traces: Tensor, norms: Tensor) -> Tensor:
    return (norms * traces.clamp(min=0).sqrt()).sum(-1)
