"""The network inside attacks: frozen, in eval mode, with fewer passes over memory than `workers.modes.frozen` alone.

A network says in `chains` where a convolution, a normalisation and an activation follow each other with nothing else
reading what is between. There, batch normalisation in eval mode is an affine map that the convolution's weights and
bias can take over, exact to rounding, or one operation of its own; and ReLU may write over its input. Networks that say
nothing stay as they are. In lower precision, weights that stay are rounded once and not in every pass.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from orchestrator.spec.training import Precision
from workers.image_convolution import convolution_of
from workers.modes import frozen, lowered


class Chain(NamedTuple):
    """act(norm(conv(x))), whose inner values nothing else sees. Without `conv`, x itself belongs to somebody else."""

    conv: nn.Module | None
    norm: nn.Module | None
    act: nn.Module | None


class Chained(Protocol):
    """A module with chains among its children."""

    def chains(self) -> list[Chain]:
        """Each module is in one chain at most."""


@contextlib.contextmanager
def folded(model: nn.Module, moving: bool = False, precision: Precision = "fp32") -> Iterator[None]:
    """`frozen`, and the model computes the same up to rounding, in less time. Its tensors may not change inside.

    Modules with hooks stay as they are, so that the hooks see what they would see without this.

    Args:
        model: the network.
        moving: convolutions may change inside after all, and may be differentiated by; what normalises may not.
        precision: see `workers.modes.lowered`.
    """
    with frozen(model), lowered(model, precision):
        replaced: list[nn.Module] = []
        try:
            for part, forward in _replacements(model, moving):
                vars(part)["forward"] = forward
                replaced.append(part)
            yield
        finally:
            for part in replaced:
                del vars(part)["forward"]


Forward = Callable[[Tensor], Tensor]
Weights = tuple[Tensor, Tensor | None]
"""Weight and bias."""


def _replacements(model: nn.Module, moving: bool) -> Iterator[tuple[nn.Module, Forward]]:
    """What parts compute instead; none in a network that is folded already, or compiled, which fuses more."""
    modules = list(model.modules())
    if any("forward" in vars(module) for module in modules):
        return
    folded_into: set[nn.Module] = set()
    for chain in _chains(modules):
        for part, forward in _in_chain(chain, moving):
            folded_into.add(part)
            yield part, forward
    for module in modules:
        if type(module) is nn.Conv2d and module not in folded_into and not _watched(module):
            yield module, _convolution(module, functools.partial(_own, module), moving)


def _chains(modules: Iterable[nn.Module]) -> Iterator[Chain]:
    """All that nobody watches."""
    for module in modules:
        if hasattr(type(module), "chains"):  # as `isinstance(module, Chained)`, which takes as long as a small layer
            for chain in cast(Chained, module).chains():
                if not any(part is not None and _watched(part) for part in chain):
                    yield chain


def _in_chain(chain: Chain, moving: bool) -> Iterator[tuple[nn.Module, Forward]]:
    """What the parts of a chain compute instead."""
    conv, norm, act = chain
    if type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats:
        scale, shift = _affine(norm)
        if type(conv) is nn.Conv2d:
            yield conv, _convolution(conv, functools.partial(_scaled, conv, scale, shift), moving)
            yield norm, _identity
        else:  # its gradient is one multiplication; that of batch normalisation also sums what nobody asks for
            yield norm, functools.partial(torch.addcmul, shift[:, None, None], tensor2=scale[:, None, None])
    # in place only where what is overwritten was made inside the chain
    if type(act) is nn.ReLU and (conv is not None or not isinstance(norm, nn.Identity | None)):
        yield act, torch.relu_


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101  (see `_replacements`)
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return scale, norm.bias - norm.running_mean * scale


def _scaled(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> Weights:
    """Those of the convolution with an affine map of its channels after it, as one."""
    bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
    return conv.weight * scale[:, None, None, None], bias


def _own(conv: nn.Conv2d) -> Weights:
    return conv.weight, conv.bias


def _convolution(conv: nn.Conv2d, weights: Callable[[], Weights], moving: bool) -> Forward:
    """The convolution with other weights, which are asked for again in every pass if they are moving."""
    convolve = convolution_of(conv)
    if moving:
        return lambda x: convolve(x, *weights())
    with torch.no_grad():
        weight, bias = weights()
        weight, bias = _rounded(weight), None if bias is None else _rounded(bias)
    return lambda x: convolve(x, weight, bias)


def _rounded(tensor: Tensor) -> Tensor:
    """As autocast, if it is on, would round it in every pass."""
    kind = tensor.device.type
    low = torch.is_autocast_enabled(kind) and tensor.dtype == torch.float32
    return tensor.to(torch.get_autocast_dtype(kind)) if low else tensor


def _identity(x: Tensor) -> Tensor:
    return x


def _watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
