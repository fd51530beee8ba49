"""The network inside attacks: frozen, in eval mode, with fewer passes over memory than `workers.modes.frozen` alone.

A network says in `chains` where a convolution, a normalisation and an activation follow each other with nothing else
reading what is between. There, batch normalisation in eval mode is an affine map that the convolution's weights and
bias can take over, exact to rounding, and ReLU may write over its input. Networks that say nothing stay as they are.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from workers.modes import frozen


class Chain(NamedTuple):
    """act(norm(conv(x))), whose inner values nothing else sees. Without `conv`, x itself belongs to somebody else."""

    conv: nn.Module | None
    norm: nn.Module | None
    act: nn.Module | None


@runtime_checkable
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
    with frozen(model), contextlib.ExitStack() as replaced:
        modules = list(model.modules())
        if any("forward" in vars(module) for module in modules):  # folded already, or compiled, which fuses more
            modules = []
        for module in modules:
            for chain in module.chains() if isinstance(module, Chained) else ():
                if not any(part is not None and _watched(part) for part in chain):
                    for part, forward in _replacements(chain, moving):
                        replaced.enter_context(_computing(part, forward))
        yield


Forward = Callable[[Tensor], Tensor]


def _replacements(chain: Chain, moving: bool) -> Iterator[tuple[nn.Module, Forward]]:
    """What the parts of a chain compute instead."""
    conv, norm, act = chain
    if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats:
        yield conv, _folded_convolution(conv, norm, moving)
        yield norm, _identity
    # in place only where what is overwritten was made inside the chain
    if type(act) is nn.ReLU and (conv is not None or not isinstance(norm, nn.Identity | None)):
        yield act, torch.relu_


def _folded_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d, moving: bool) -> Forward:
    """norm(conv(x)) as one convolution."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101  (see `_replacements`)
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale

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


@contextlib.contextmanager
def _computing(module: nn.Module, forward: Forward) -> Iterator[None]:
    """The module computes `forward` inside."""
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
