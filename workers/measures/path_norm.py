"""The path norm of a network of linear layers and ReLU (Neyshabur et al. 2015, arXiv 1503.00036; Jiang19)."""

import copy
import math

import torch
from torch import Tensor, nn

from workers.models.classifier import Classifier
from workers.weights import NORMALISATION

RELU = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""On non-negative inputs the identity."""
SMOOTH = (nn.SiLU, nn.Mish, nn.GELU, nn.Softplus, nn.ELU, nn.SELU, nn.CELU, nn.Tanh, nn.Sigmoid, nn.ReLU6)
"""Activations whose place ReLU takes."""


def path_norm(model: nn.Module, shape: tuple[int, int, int]) -> tuple[float, tuple[str, ...]]:
    """sqrt of the sum, over all paths from an input or a bias to a logit, of the product of the squared weights.

    It is the root of the sum of the logits, on an image of ones, of a twin whose weights and biases are squared: there
    everything is non-negative, and a ReLU lets everything pass. What is no weight stays: shortcuts add, average pooling
    takes the mean, max pooling the largest of the sums.

    Batch normalisation in eval mode is a layer with one weight, gamma / sqrt(var + eps), and one bias,
    beta - gamma * mean / sqrt(var + eps), per channel: both are squared. After a convolution without bias that is the
    same as folding it into the convolution, and it serves before one as well, as in a pre-activation network. The
    standardisation of a `Classifier`'s input is no part of the network: the ones are its standardised input.

    Args:
        model: from images to logits.
        shape: channels, height, width of an image.

    Returns:
        The norm, and what is to be said of it. NaN where the network is not made of linear layers and ReLU alone:
        layer and group normalisation, attention, products of features.
    """
    network = model.network if isinstance(model, Classifier) else model
    twin = copy.deepcopy(network).double().eval().requires_grad_(False)
    replaced = _without_activations(twin)
    _square(twin)
    ones = torch.ones(1, *shape, dtype=torch.float64, device=_device(twin))
    with torch.no_grad():
        total = twin(ones).sum()
        # with its biases doubled such a twin gives twice as much for twice the input, and hardly another one does
        for bias in _biases(twin):
            bias.mul_(2)
        doubled = twin(2 * ones).sum()
    if not torch.isclose(doubled, 2 * total, rtol=1e-6, atol=0) or _normalises(twin):
        return math.nan, ("path_norm is not defined: the network is not made of linear layers and ReLU alone",)
    said = (f"path_norm is that of the same weights with ReLU instead of {', '.join(replaced)}",) if replaced else ()
    return math.sqrt(float(total)), said


def _without_activations(twin: nn.Module) -> list[str]:
    """Puts the identity in the place of every activation; returns the names of those that are not ReLU."""
    found = [
        (parent, name, child)
        for parent in twin.modules()
        for name, child in parent._modules.items()  # named_children lists a module that is used twice once
        if isinstance(child, RELU + SMOOTH)
    ]
    for parent, name, _ in found:
        setattr(parent, name, nn.Identity())
    return sorted({type(child).__name__ for _, _, child in found if not isinstance(child, nn.ReLU)})


def _square(twin: nn.Module) -> None:
    """Squares every weight and bias, with batch normalisation as one weight and one bias per channel."""
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            _fold(module)
    for parameter in twin.parameters():  # each once, also where modules share it
        parameter.square_()


def _fold(norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Moves the statistics of batch normalisation into its weight and bias: mean 0 and deviation 1 remain."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101  (asked before)
    scale = (norm.running_var + norm.eps).rsqrt()
    weight = norm.weight * scale if norm.affine else scale
    shift = -norm.running_mean * weight + (norm.bias if norm.affine else 0)
    norm.weight, norm.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(shift, requires_grad=False)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _normalises(twin: nn.Module) -> bool:
    """Whether a layer divides by something that it takes from its input: images of ones may hide that."""
    return any(
        isinstance(module, NORMALISATION) and getattr(module, "running_var", None) is None for module in twin.modules()
    )


def _biases(twin: nn.Module) -> list[Tensor]:
    return [parameter for name, parameter in twin.named_parameters() if name.rpartition(".")[2] == "bias"]


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
