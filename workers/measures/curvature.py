"""Eigenvalues, trace and spectral density of the Hessian of the robust or clean loss (SCIENCE.md section 7)."""

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.spec.curvature_measures import Curvature
from orchestrator.spec.training import Attack
from workers.data.splits import Splits
from workers.measures.estimated_traces import estimated_traces
from workers.measures.fixed_examples import Examples, fixed_examples, unmeasured
from workers.measures.gauss_newton import gauss_newton_traces
from workers.measures.hessian import Hessian, curvature_tensors, differentiated
from workers.measures.lanczos import density, lanczos
from workers.measures.remainder import why_not_exact
from workers.measures.result import Parts, Result, standard_error
from workers.measures.trace import hutch_plus_plus, hutchinson, random_signs
from workers.steps import Steps, stepwise


@stepwise
def curvature(
    model: nn.Module,
    splits: Splits,
    settings: Curvature,
    *,
    attack: Attack,
    seed: int,
    parts: Parts | None = None,
) -> Steps[Result]:
    """Curvature of the mean cross-entropy at fixed examples in all weights with more than one dimension.

    The robust loss is taken at adversarial examples that are found at w and do not move with the weights.

    Args:
        model: from images in [0, 1] to logits; differentiated in eval mode, in its own precision.
        splits: the images.
        settings: loss, images, number of eigenvalues, accuracy, kind of trace, density.
        attack: the training attack, for what `settings.attack` leaves out.
        seed: of random starts of the attack, of Lanczos and of probes.
        parts: pieces that are done (a Lanczos run, a probe, a batch); those done now are added. The adversarial
            examples are found again after a stop.

    Returns:
        `hessian_eigenvalue1` (the largest), ..., `hessian_smallest`, `hessian_ratio` = |smallest| / largest,
        `hessian_trace` and its standard error over probes (0 where it is exact). Arrays: `residuals`, ||Hv - lambda v||
        of the eigenvalues, the smallest one's last; `density` per unit of lambda over `density_grid`, from
        `density_nodes` and `density_weights`, probes x nodes. Flags: eigenvalues that did not converge, a trace that
        had to be estimated.
    """
    parts = {} if parts is None else parts
    examples = yield from fixed_examples.steps(model, splits, settings, attack, seed)
    if not torch.isfinite(torch.tensor(examples.loss)):
        return unmeasured(settings, examples)
    tensors = curvature_tensors(model)
    with differentiated(model, tensors):
        hessian = Hessian(model, tensors, examples.x, examples.y, settings.batch_size)
        spectra = yield from _spectra(hessian, settings, seed, parts)
        trace, trace_se, flags = yield from _trace(hessian, examples, settings, seed, parts)
    first = spectra[0]
    largest, smallest = first["largest"], first["smallest"]
    found = {f"hessian_eigenvalue{rank + 1}": value for rank, value in enumerate(largest)}
    found |= {"hessian_smallest": smallest, "hessian_ratio": _ratio(smallest, largest[0]), "hessian_trace": trace}
    values = {settings.key(name): value for name, value in found.items()}
    values[settings.key("hessian_trace") + "_se"] = trace_se
    arrays: dict[str, Tensor] = {"residuals": torch.tensor(first["residuals"], dtype=torch.float64)}
    if settings.density_probes:
        arrays |= _density(spectra)
    return Result(values, arrays, (*_residual_flags(first, settings), *flags))


def _spectra(hessian: Hessian, settings: Curvature, seed: int, parts: Parts) -> Steps[list[dict[str, Any]]]:
    """Lanczos runs: the first one until the eigenvalues have converged, those after it for the density alone."""
    for run in range(max(settings.density_probes, 1)):
        if f"lanczos {run}" in parts:
            continue
        start = random_signs(hessian, seed, "lanczos", run)
        first = run == 0
        found = yield from lanczos.steps(
            hessian.product,
            start,
            settings.eigenvalues,
            settings.lanczos_steps,
            settings.max_products if first else settings.lanczos_steps,
            settings.tolerance,
            whole=settings.density_probes > 0,
        )
        parts[f"lanczos {run}"] = {
            "largest": found.largest.tolist(),
            "smallest": float(found.smallest),
            "residuals": found.residuals.tolist(),
            "scale": found.scale,
            "nodes": found.nodes.tolist(),
            "weights": found.weights.tolist(),
            "products": found.products,
        }
    return [parts[f"lanczos {run}"] for run in range(max(settings.density_probes, 1))]


def _trace(
    hessian: Hessian, examples: Examples, settings: Curvature, seed: int, parts: Parts
) -> Steps[tuple[float, float, list[str]]]:
    """Trace, its standard error, flags."""
    if settings.trace == "hutch++":
        trace, error = yield from hutch_plus_plus.steps(hessian, seed, settings.probes, parts)
        return trace, error, []
    model, tensors, probes = hessian.model, hessian.tensors, range(settings.probes)
    if settings.trace == "hutchinson":
        forms = yield from hutchinson.steps(hessian, seed, probes, parts, settings.probes)
        return float(forms.sum(1).mean()), standard_error(forms.sum(1)), []
    reason = why_not_exact(model, tensors, examples.x, seed)
    if reason is None:
        exact = yield from gauss_newton_traces.steps(model, tensors, examples.x, settings.batch_size, parts)
        return float(exact.sum()), 0.0, []
    forms = yield from estimated_traces.steps(
        model, tensors, examples.x, examples.y, settings.batch_size, seed, probes, parts
    )
    flag = f"the trace is estimated with {settings.probes} probes: {reason}"
    return float(forms.sum(1).mean()), standard_error(forms.sum(1)), [flag]


def _ratio(smallest: float, largest: float) -> float:
    return abs(smallest) / largest if largest > 0 else torch.nan


def _residual_flags(spectrum: dict[str, Any], settings: Curvature) -> list[str]:
    """Says which eigenvalues are less accurate than asked for, and by how much."""
    names = [*(f"hessian_eigenvalue{rank + 1}" for rank in range(settings.eigenvalues)), "hessian_smallest"]
    allowed = settings.tolerance * spectrum["scale"]
    flags = [
        f"{settings.key(name)} has not converged in {spectrum['products']} products: residual {residual:.2g}, "
        f"asked for {allowed:.2g}"
        for name, residual in zip(names, spectrum["residuals"], strict=True)
        if residual > allowed
    ]
    missing = sum(value != value for value in spectrum["largest"])
    if missing:
        flags.append(f"{missing} eigenvalues are missing: the Hessian has no more different ones")
    return flags


def _density(spectra: list[dict[str, Any]]) -> dict[str, Tensor]:
    nodes = [torch.tensor(spectrum["nodes"], dtype=torch.float64) for spectrum in spectra]
    weights = [torch.tensor(spectrum["weights"], dtype=torch.float64) for spectrum in spectra]
    grid, values = density(nodes, weights)
    pad = torch.nn.utils.rnn.pad_sequence  # a run may end early; nodes of weight 0 stand for nothing
    return {
        "density_grid": grid,
        "density": values,
        "density_nodes": pad(nodes, batch_first=True),
        "density_weights": pad(weights, batch_first=True),
    }
