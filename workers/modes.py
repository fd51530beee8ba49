"""Switching a network's mode for a while: frozen for attacks, in lower precision, batch statistics left alone."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from orchestrator.spec.training import Precision


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients inside, so that an attack's backward pass only goes to the input.

    Afterwards every module is in the mode and every parameter has the flag it had before.
    """
    modules = [module for module in model.modules() if module.training]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for module in modules:
        module.training = False
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.training = True
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def lowered(model: nn.Module, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """For `bf16`: convolutions and matrix products are in bfloat16 inside. For `fp32` all stays as it is outside."""
    if precision == "fp32":
        return contextlib.nullcontext()
    kind = next(model.parameters()).device.type
    # without autocast's cache: it would not see that weights are moved within (AWP, joint ascents)
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def untracked_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode uses the batch's statistics inside and leaves its running ones untouched."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
