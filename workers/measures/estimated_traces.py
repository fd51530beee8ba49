"""Estimated traces of each tensor's diagonal block of the Hessian, by the better estimator that a network allows."""

from collections.abc import Sequence

from torch import Tensor, nn

from workers.measures.hessian import Hessian
from workers.measures.layer_probes import probed_traces
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
    """Probes x tensors, float64: directions of each example's own where the layers allow it, else common ones.

    Args as those of `probed_traces`, but for the tensors, which may be any.
    """
    if why_not_layers(model, tensors, x[:1]) is None:
        return (yield from probed_traces.steps(model, tensors, x, y, batch_size, seed, probes, parts))
    hessian = Hessian(model, tensors, x, y, batch_size)
    return (yield from hutchinson.steps(hessian, seed, probes, parts, probes.stop))
