"""Spectral norms of the layers that an image meets, each as the linear map that it is on its own input."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

from workers.modes import frozen
from workers.weights import LINEAR

BATCH_NORM = nn.modules.batchnorm._BatchNorm
Apply = Callable[[Tensor], Tensor]
"""A linear map on vectors."""


class Layer(NamedTuple):
    """A convolution, linear layer or batch normalisation, and the shape of its input without the batch."""

    module: nn.Module
    shape: tuple[int, ...]


def layers_of(model: nn.Module, image: Tensor) -> list[Layer]:
    """The linear layers of a network in the order in which an image meets them; one that is met twice is there twice.

    In eval mode batch normalisation is linear too, with one factor per channel: it takes its part, so that a network
    whose convolutions and statistics are rescaled, and which computes the same, has the same product of norms.

    Args:
        model: from images to logits.
        image: 1 x C x H x W.
    """
    met: list[Layer] = []
    chosen = [module for module in model.modules() if isinstance(module, (*LINEAR, BATCH_NORM)) and _is_fixed(module)]
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: met.append(Layer(module, tuple(inputs[0].shape[1:]))))
        for module in chosen
    ]
    try:
        with frozen(model), torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return met


def left_out(model: nn.Module, layers: list[Layer]) -> list[str]:
    """Says which modules with weights of their own are no part of the product."""
    met = {id(layer.module) for layer in layers}
    heads = {id(module) for module in getattr(model, "heads", nn.ModuleDict()).modules()}
    others = Counter(
        type(module).__name__
        for module in model.modules()
        if id(module) not in met | heads and any(True for _ in module.parameters(recurse=False))
    )
    if not others:
        return []
    return [f"not in spectral_norm_product: {', '.join(f'{count} {name}' for name, count in sorted(others.items()))}"]


def spectral_norm(layer: Layer, tolerance: float, iterations: int, random: torch.Generator) -> tuple[float, float]:
    """The largest singular value of a layer without its bias, with its stride and padding on its own input.

    Of a convolution by Lanczos' method on A^T A, that is power iteration which keeps all of its iterates: neighbouring
    singular values of a convolution lie close, and the plain iteration would take thousands of steps.

    Args:
        layer: from `layers_of`.
        tolerance: relative error at which it ends.
        iterations: applications of A and A^T at most.
        random: source of the first vector.

    Returns:
        The norm, and a bound of its relative error: at most `tolerance`, unless `iterations` were too few. The bound
        is of the distance to some singular value; that it is the largest one is certain but for the random start.
    """
    module = layer.module
    if isinstance(module, BATCH_NORM):
        assert module.running_var is not None  # noqa: S101  (see _is_fixed)
        scale = (module.running_var.double() + module.eps).rsqrt()
        return float((scale * module.weight.detach() if module.affine else scale).abs().max()), 0.0
    weight = module.weight.detach().double()  # type: ignore[operator]
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(weight, 2)), 0.0
    # double precision: float32 convolutions on a GPU may be rounded to ten bits (TF32)
    others = {"bias": torch.zeros_like(module.bias, dtype=torch.float64)} if module.bias is not None else {}  # type: ignore[arg-type]

    def squared(vector: Tensor) -> Tensor:
        x = vector.view(1, *layer.shape).requires_grad_(True)
        with torch.enable_grad():
            y = torch.func.functional_call(module, {"weight": weight, **others}, (x,))
        (result,) = torch.autograd.grad(y, x, y.detach())
        return result.flatten()

    start = torch.empty(layer.shape, dtype=torch.float64, device=weight.device).normal_(generator=random).flatten()
    value, error = _largest(squared, start, tolerance, iterations)
    return value**0.5, error


def _is_fixed(module: nn.Module) -> bool:
    """Whether a layer is the same map for every input: batch normalisation without statistics of its own is not."""
    return not isinstance(module, BATCH_NORM) or module.running_var is not None


def _largest(apply: Apply, start: Tensor, tolerance: float, iterations: int) -> tuple[float, float]:
    """Largest eigenvalue of a positive semi-definite map, and a bound of the relative error of its square root."""
    vectors = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        image = apply(vectors[-1])
        diagonal.append(float(vectors[-1] @ image))
        basis = torch.stack(vectors)
        for _ in range(2):  # twice is enough to stay orthogonal (Parlett 1998)
            image = image - basis.T @ (basis @ image)
        rest = float(image.norm())
        values, tops = eigh_tridiagonal(diagonal, off_diagonal)
        top = float(values[-1])
        if top <= 0:
            return 0.0, 0.0
        # some eigenvalue lies within rest * |last entry| of the Ritz value; half of that, relatively, for the root
        error = rest * abs(float(tops[-1, -1])) / (2 * top)
        if error <= tolerance or len(vectors) in {iterations, start.numel()}:
            return top, error
        vectors.append(image / rest)
        off_diagonal.append(rest)
