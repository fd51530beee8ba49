"""Estimated traces of each tensor's diagonal block of the Hessian, by the better estimator that a network allows."""

from collections.abc import Sequence

from torch import Tensor, nn

from workers.measures.gauss_newton import gauss_newton_traces
from workers.measures.hessian import Hessian
from workers.measures.remainder import remainder_traces
from workers.measures.result import Parts
from workers.measures.trace import hutchinson
from workers.measures.unfolded import why_not_layers
from workers.steps import Steps, stepwise


@stepwise
def estimated_traces(
    model: nn.Module,
    tensors: Sequence[nn.Parameter],
    x: Tensor,
    y: Tensor,
    batch_size: int,
    seed: int,
    probes: range,
    parts: Parts,
) -> Steps[Tensor]:
    """Estimates of the trace of each tensor's block, probes x tensors, float64; their mean is the estimate.

    Where the tensors are weights of layers that are each applied once, the Gauss-Newton part is exact and only the
    remainder is estimated, with directions of each example's own. Else it is Hutchinson's estimator, whose directions
    all examples share.

    Args as those of `remainder_traces`, but for the tensors, which may be any.
    """
    if why_not_layers(model, tensors, x[:1]) is None:
        exact = yield from gauss_newton_traces.steps(model, tensors, x, batch_size, parts)
        rest = yield from remainder_traces.steps(model, tensors, x, y, batch_size, seed, probes, parts)
        return exact + rest
    hessian = Hessian(model, tensors, x, y, batch_size)
    return (yield from hutchinson.steps(hessian, seed, probes, parts, probes.stop))
