"""Which tensors of a network flatness and weight perturbations move, and moving them for a while."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

NORMALISATION = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.modules.instancenorm._InstanceNorm,
)


LINEAR = (nn.modules.conv._ConvNd, nn.Linear)
PROJECTIONS = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"}
"""Parameters of torch's MultiheadAttention that are the weights and biases of linear layers; `out_proj` is a module."""


def perturbed_tensors(model: nn.Module) -> list[nn.Parameter]:
    """Every weight and bias of a convolution or linear layer (SCIENCE.md section 6), each once, in the model's order.

    Left out: normalisation; what is no layer's weight (a ViT's positions and class token, tables of relative positions,
    learned scales); heads beside the classifier, of which the logits do not depend.
    """
    own = {id(p) for m in model.modules() if isinstance(m, LINEAR) for p in m.parameters(recurse=False)}
    own |= {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.MultiheadAttention)
        for name, p in m.named_parameters(recurse=False)
        if name in PROJECTIONS
    }
    own -= {id(p) for head in getattr(model, "heads", nn.ModuleDict()).values() for p in head.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) in own]


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter with more than one dimension: kernels, matrices, tables of positions; no biases or normalisation.

    A ConvNeXt's scales count too, stored as C x 1 x 1.
    """
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


@contextlib.contextmanager
def restored(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Yields copies of the parameters, which may be changed inside; afterwards they are bit for bit as before."""
    originals = [parameter.detach().clone() for parameter in parameters]
    try:
        yield originals
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)


@contextlib.contextmanager
def displaced(parameters: Sequence[nn.Parameter], offsets: Sequence[Tensor]) -> Iterator[None]:
    """The parameters are moved by `offsets` inside; afterwards they are bit for bit as before."""
    with restored(parameters):
        with torch.no_grad():
            for parameter, offset in zip(parameters, offsets, strict=True):
                parameter.add_(offset)
        yield


Whole = Literal["layer", "filter"]
"""What has a norm of its own: a tensor, or each of its filters."""


def norms(tensors: Sequence[Tensor], of: Whole = "layer") -> list[Tensor]:
    """Euclidean norm of each tensor, or of each filter of it, shaped to broadcast over the tensor.

    A filter is a slice along the first dimension: the kernel behind one output channel, a row of a matrix, an entry of
    a bias.
    """
    if of == "layer":
        return list(torch._foreach_norm(list(tensors)))
    return [
        torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)
        if tensor.dim() > 1
        else tensor.abs()
        for tensor in tensors
    ]


def scaled_to(directions: Sequence[Tensor], lengths: Sequence[Tensor], of: Whole = "layer") -> list[Tensor]:
    """Each direction, or each filter of it, at the given Euclidean length; what is zero stays zero."""
    return [
        direction * torch.where(norm > 0, length / norm, 0.0)
        for direction, norm, length in zip(directions, norms(directions, of), lengths, strict=True)
    ]
