"""The network inside attacks: frozen, in eval mode, with fewer passes over memory than `workers.modes.frozen` alone.

A network says in `chains` where a convolution, a normalisation and an activation follow each other with nothing else
reading what is between. There, batch normalisation in eval mode is an affine map that the convolution's weights and
bias can take over, exact to rounding, or one operation of its own; and ReLU may write over its input. Networks that say
nothing stay as they are.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from workers.modes import frozen


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
def folded(model: nn.Module, moving: bool = False) -> Iterator[None]:
    """`frozen`, and the model computes the same up to rounding, in less time. Its tensors may not change inside.

    Modules with hooks stay as they are, so that the hooks see what they would see without this.

    Args:
        model: the network.
        moving: convolutions may change inside after all, and may be differentiated by; what normalises may not.
    """
    with frozen(model):
        replaced: list[nn.Module] = []
        try:
            for chain in _chains(model):
                for part, forward in _replacements(chain, moving):
                    vars(part)["forward"] = forward
                    replaced.append(part)
            yield
        finally:
            for part in replaced:
                del vars(part)["forward"]


Forward = Callable[[Tensor], Tensor]


def _chains(model: nn.Module) -> Iterator[Chain]:
    """All that nobody watches; none in a network that is folded already, or compiled, which fuses more."""
    modules = list(model.modules())
    if any("forward" in vars(module) for module in modules):
        return
    for module in modules:
        if hasattr(type(module), "chains"):  # as `isinstance(module, Chained)`, which takes as long as a small layer
            for chain in cast(Chained, module).chains():
                if not any(part is not None and _watched(part) for part in chain):
                    yield chain


def _replacements(chain: Chain, moving: bool) -> Iterator[tuple[nn.Module, Forward]]:
    """What the parts of a chain compute instead."""
    conv, norm, act = chain
    if type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats:
        scale, shift = _affine(norm)
        if type(conv) is nn.Conv2d:
            yield conv, _folded_convolution(conv, scale, shift, moving)
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


def _folded_convolution(conv: nn.Conv2d, scale: Tensor, shift: Tensor, moving: bool) -> Forward:
    """The convolution with an affine map of its channels after it, as one."""

    def weights() -> tuple[Tensor, Tensor]:
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
        return conv.weight * scale[:, None, None, None], bias

    if moving:
        return lambda x: conv._conv_forward(x, *weights())
    with torch.no_grad():
        weight, bias = weights()
    return functools.partial(conv._conv_forward, weight=weight, bias=bias)


def _identity(x: Tensor) -> Tensor:
    return x


def _watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
