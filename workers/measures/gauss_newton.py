"""Traces of the Gauss-Newton part of each layer's diagonal block of the Hessian, exact and without probes.

It is the mean over examples of J_l^T (diag(p) - p p^T) J_l, with J_l = dz/dW_l of the logits z. With diag(p) - p p^T =
L L^T its trace is the sum over the columns of L of ||d(L_k^T z)/dW_l||^2: one backward pass to the layers' outputs for
each column, all examples at once. A layer's own gradient is the product of the gradient at its output and its unfolded
input, so that its norm needs no pass to weights. Where the logits are piecewise linear in W_l this is the whole block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workers.measures.result import Parts
from workers.measures.unfolded import Layer, by_place, layers_of, unfolded, watched
from workers.steps import Steps, Tick, stepwise

MEMORY = 512 * 1024**2
"""Bytes for what is kept of the layers; bounds the examples that are taken at once."""


@stepwise
def gauss_newton_traces(
    model: nn.Module, tensors: Sequence[nn.Parameter], x: Tensor, batch_size: int, parts: Parts
) -> Steps[Tensor]:
    """Trace of the Gauss-Newton part of each tensor's block for the mean cross-entropy; needs no labels.

    Args:
        model: from images to logits; in `differentiated`.
        tensors: weights of linear layers and 2-D convolutions, each applied once (see `why_not_layers`).
        x: images, N x C x H x W.
        batch_size: most images at once; fewer are taken where they need too much memory.
        parts: batches that are done; those done now are added.

    Returns:
        One value per tensor, float64.
    """
    layers = layers_of(model, tensors)
    for tensor in tensors:
        tensor.requires_grad_(False)  # gradients go to the layers' outputs only
    try:
        kept = sum(item.kept_bytes() for item in _forward(model, layers, x[:1])[1])
        chunk = min(batch_size, max(1, MEMORY // max(kept, 1)))
        bounds = [(low, min(low + chunk, len(x))) for low in range(0, len(x), chunk)]
        for number, (low, high) in enumerate(bounds):
            if f"traces {low} to {high}" not in parts:
                sums = _summed_traces(model, layers, x[low:high])
                parts[f"traces {low} to {high}"] = [sums.get(id(tensor), 0.0) for tensor in tensors]
                yield Tick(number + 1, len(bounds))
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)
    summed = [parts[f"traces {low} to {high}"] for low, high in bounds]
    return torch.tensor(summed, dtype=torch.float64).sum(0) / len(x)


def _summed_traces(model: nn.Module, layers: Sequence[Layer], x: Tensor) -> dict[int, float]:
    """Sum over the examples of their traces, by the id of the layer's weight."""
    logits, seen = _forward(model, layers, x)
    columns = covariance_root(logits.detach().double().softmax(1)).to(logits.dtype)
    for index in range(columns.shape[2]):
        gradients = torch.autograd.grad(
            logits,
            [item.output for item in seen],
            columns[:, :, index],
            retain_graph=index + 1 < columns.shape[2],
            allow_unused=True,
        )
        for item, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                item.add(gradient)
    return {id(item.layer.weight): float(item.total) for item in seen}


def _forward(model: nn.Module, layers: Sequence[Layer], x: Tensor) -> tuple[Tensor, list["_Seen"]]:
    """Logits with a graph that begins at the layers' outputs, and what is kept of the layers."""
    with torch.no_grad():
        directions = model(x[:1]).shape[1] - 1
    seen: list[_Seen] = []

    def look(layer: Layer, inputs: Tensor, output: Tensor) -> Tensor:
        seen.append(_Seen(layer, inputs, output.requires_grad_(), directions))
        return output.clone()  # what comes next may work in place

    with watched(layers, look):
        return model(x), seen


def covariance_root(p: Tensor) -> Tensor:
    """L with L L^T = diag(p) - p p^T for each row of probabilities p, N x C: N x C x (C - 1).

    The closed form of the Cholesky factor, with the classes in the order of their probabilities: what is left to the
    last class is then at least 1 / C, and nothing is subtracted that cancels.
    """
    ordered, order = p.sort(1)
    left = ordered.flip(1).cumsum(1).flip(1)  # the probability of this class and those behind it
    share, before, behind = ordered[:, :-1], left[:, :-1], left[:, 1:]
    below = -ordered[:, :, None] * (share / (before * behind)).sqrt()[:, None, :]
    root = below.tril(-1)
    root.diagonal(dim1=1, dim2=2).copy_((share * behind / before).sqrt())
    return torch.empty_like(root).scatter_(1, order[:, :, None].expand_as(root), root)


class _Seen:
    """A layer in one forward pass, and the sum of its examples' traces so far.

    Its gradient for one example is G U^T, U the unfolded input, K x S, and G the gradient at the output, O x S. The
    squared norm of that is also the inner product of U^T U and G^T G, S x S, which is cheaper where places are few.

    Args:
        layer: the layer.
        inputs: its input.
        output: its output.
        directions: gradients that will be added.
    """

    def __init__(self, layer: Layer, inputs: Tensor, output: Tensor, directions: int) -> None:
        self.layer, self.output = layer, output
        self.total = torch.zeros((), dtype=torch.float64, device=output.device)
        with torch.no_grad():
            places = unfolded(layer, inputs.detach())
            inside, count = places.shape[1:]
            outside = by_place(layer, output).shape[1]
            self._gram = count * (inside + outside * directions) <= inside * outside * directions
            self._kept = places.mT @ places if self._gram else places.mT

    def add(self, gradient: Tensor) -> None:
        """Adds the squared norm of every example's gradient; `gradient` is that at the output."""
        outside = by_place(self.layer, gradient)
        products = (outside.mT @ outside).mul_(self._kept) if self._gram else (outside @ self._kept).square_()
        self.total += products.flatten(1).sum(1).double().sum()

    def kept_bytes(self) -> int:
        """Memory of what is kept, and of the output, its copy and its gradient."""
        return (self._kept.numel() + 3 * self.output.numel()) * self.output.element_size()
