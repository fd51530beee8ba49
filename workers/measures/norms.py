"""Norms of a network's weights (Jiang19, arXiv 1912.02178; SCIENCE.md section 7)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.network_measures import Norms
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Splits
from workers.measures.path_norm import path_norm
from workers.measures.result import Parts, Result
from workers.measures.spectral_norm import layers_of, left_out, spectral_norm
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise
from workers.weights import perturbed_tensors


@stepwise
def norms(
    model: nn.Module,
    splits: Splits,
    settings: Norms,
    *,
    attack: Attack,  # noqa: ARG001  (nothing is attacked)
    seed: int,
    parts: Parts | None = None,
    initial: Callable[[], nn.Module] | None = None,
) -> Steps[Result]:
    """Frobenius norm, path norm, product of spectral norms and distance from initialisation.

    Args:
        model: from images in [0, 1] to logits.
        splits: for the size of the images only.
        settings: how exact the spectral norms are to be.
        attack: not used.
        seed: of the first vectors of the spectral norms.
        parts: layers that are done; those done now are added.
        initial: builds the network as it was before training; without it the distance is NaN.

    Returns:
        `frobenius_norm` of all kernels and matrices of convolutions and linear layers together, without biases;
        `path_norm`, see `workers.measures.path_norm`; `spectral_norm_product` and its logarithm, of every convolution,
        linear layer and batch normalisation that one image meets, see `workers.measures.spectral_norm`;
        `initial_distance`, Euclidean, of the same weights as the Frobenius norm. Arrays: `spectral_norms`, in the order
        in which an image meets the layers, and `frobenius_norms`, one for each kernel or matrix.
    """
    parts = {} if parts is None else parts
    image = to_unit(splits.test.x[:1])
    layers = layers_of(model, image)
    for number, layer in enumerate(layers):
        if f"layer {number}" not in parts:
            random = generator(image.device, seed, "spectral norm", number)
            parts[f"layer {number}"] = spectral_norm(layer, settings.tolerance, settings.iterations, random)
            yield Tick(number + 1, len(layers))
    found = [parts[f"layer {number}"] for number in range(len(layers))]
    flags = [*_unsure(found, settings.tolerance), *left_out(model, layers)]
    weights = kernels(model)
    path, said = path_norm(model, splits.shape)
    flags += said
    distance = math.nan
    if initial is None:
        flags.append("initial_distance is not known: the network was not trained here")
    else:
        distance = _length([new - old for new, old in zip(weights, kernels(initial()), strict=True)])
    values = {
        "frobenius_norm": _length(weights),
        "path_norm": path,
        "spectral_norm_product": math.prod(norm for norm, _ in found),
        "log_spectral_norm_product": sum(math.log(norm) if norm > 0 else -math.inf for norm, _ in found),
        "initial_distance": distance,
    }
    arrays = {
        "spectral_norms": torch.tensor([norm for norm, _ in found], dtype=torch.float64),
        "frobenius_norms": torch.tensor([_length([weight]) for weight in weights], dtype=torch.float64),
    }
    return Result(values, arrays, tuple(flags))


def kernels(model: nn.Module) -> list[Tensor]:
    """Kernels and matrices of convolutions and linear layers, detached; no biases, no normalisation."""
    return [parameter.detach() for parameter in perturbed_tensors(model) if parameter.dim() > 1]


def _length(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all entries together, in double precision."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))


def _unsure(found: Sequence[Sequence[float]], tolerance: float) -> list[str]:
    unsure = [error for _, error in found if not error <= tolerance]
    if not unsure:
        return []
    return [f"{len(unsure)} spectral norms are not converged, errors up to {max(unsure):.2g}: raise iterations"]
