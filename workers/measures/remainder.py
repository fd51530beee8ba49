"""Traces of what a layer's diagonal block of the Hessian has beside its Gauss-Newton part, by random directions.

This remainder is the mean over examples of sum_k (p_k - [k = y]) d^2 z_k / dW_l^2, z the logits: the curvature of the
functions behind a layer, none with ReLU and the like. An example's share is seen in the layer's output: moving the
weight by V moves the output by V U, U the unfolded input, and where a layer is applied once, U does not depend on its
own weight. So each example may have a direction of its own at the cost of one product with the Hessian in the layers'
outputs, and the noise is averaged over examples. Directions are a b^T with random signs a and b, whose entries are
uncorrelated and of variance 1, as the trace needs it [ours].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from workers.measures.result import Parts
from workers.measures.unfolded import Layer, by_place, layers_of, unfolded, watched, why_not_layers
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise

MEMORY = 512 * 1024**2
"""Bytes for the unfolded inputs that are kept; bounds the examples that are taken at once."""
LOOKED_AT = 2
"""Examples on which linearity is checked."""
BLOCK = 16
"""Examples that share a random generator; batches are made of whole blocks, so that their size changes no draw."""


@stepwise
def remainder_traces(
    model: nn.Module,
    tensors: Sequence[nn.Parameter],
    x: Tensor,
    y: Tensor,
    batch_size: int,
    seed: int,
    probes: range,
    parts: Parts,
) -> Steps[Tensor]:
    """Estimates of the trace of the remainder of each tensor's block for the mean cross-entropy.

    Args:
        model: from images to logits; in `differentiated`.
        tensors: weights of linear layers and 2-D convolutions, each applied once (see `why_not_layers`).
        x: images, N x C x H x W.
        y: labels, N.
        batch_size: most images at once, at least one block; fewer are taken where they need too much memory.
        seed: of the directions.
        probes: numbers of the probes, each a direction for every example.
        parts: batches of these probes that are done; those done now are added.

    Returns:
        Probes x tensors, float64; the mean over probes is the estimate.
    """
    layers = layers_of(model, tensors)
    for tensor in tensors:
        tensor.requires_grad_(False)  # derivatives are taken at the layers' outputs only
    try:
        kept = sum(item.kept_bytes() for item in _forward(model, layers, x[:1])[1])
        chunk = BLOCK * max(1, min(batch_size, MEMORY // max(kept, 1)) // BLOCK)
        bounds = [(low, min(low + chunk, len(x))) for low in range(0, len(x), chunk)]
        names = [f"probes {probes.start} to {probes.stop}, images {low} to {high}" for low, high in bounds]
        for number, (name, (low, high)) in enumerate(zip(names, bounds, strict=True)):
            if name not in parts:
                logits, seen = _forward(model, layers, x[low:high])
                forms = _quadratic_forms(_straight(logits, y[low:high]), seen, low, seed, probes)
                places = {id(item.layer.weight): place for place, item in enumerate(seen)}
                parts[name] = [[row[places[id(t)]] if id(t) in places else 0.0 for t in tensors] for row in forms]
                yield Tick(number + 1, len(bounds))
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)
    return torch.tensor([parts[name] for name in names], dtype=torch.float64).sum(0) / len(x)


def why_not_exact(model: nn.Module, tensors: Sequence[nn.Parameter], x: Tensor, seed: int) -> str | None:
    """Why there is a remainder, or may be one, in words; None where the Gauss-Newton part is all there is.

    Beside looking at the modules: on a few examples the logits' second derivatives in the layers' outputs must vanish
    along a random direction, so that functions which are no module are noticed too.

    Args:
        model: from images to logits; in `differentiated`.
        tensors: those asked for.
        x: images, of which the first few are used.
        seed: of the random direction.
    """
    if reason := why_not_layers(model, tensors, x[:LOOKED_AT]):
        return reason
    logits, seen = _forward(model, layers_of(model, tensors), x[:LOOKED_AT])
    random = generator(x.device, seed, "linearity")
    weights = torch.empty_like(logits).normal_(generator=random)
    gradient = torch.autograd.grad((logits * weights).sum(), _offsets(seen), create_graph=True, materialize_grads=True)
    directions = [torch.empty_like(offset).normal_(generator=random) for offset in _offsets(seen)]
    seconds = _products(gradient, _offsets(seen), directions)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for item, slope, direction, second in zip(seen, gradient, directions, seconds, strict=True):
        rounding = 1e-4 * slope.detach().norm() * direction.norm() / item.size
        if bool(second.norm() > rounding):
            return f"the logits are not piecewise linear in {names[id(item.layer.weight)]}"
    return None


def _straight(logits: Tensor, y: Tensor) -> Tensor:
    """Linear in the logits, with the gradient of the summed cross-entropy: its Hessian is the remainder."""
    slope = (logits.softmax(1) - F.one_hot(y, logits.shape[1])).detach()
    return (logits * slope).sum()


class _Seen:
    """A layer in one forward pass: its unfolded input, its output's norm, and zeros that were added to its output."""

    def __init__(self, layer: Layer, inputs: Tensor, output: Tensor) -> None:
        self.layer = layer
        self.offset = torch.zeros_like(output).requires_grad_()
        self.size = output.detach().norm().clamp_min(1e-12)
        with torch.no_grad():
            self.places = unfolded(layer, inputs.detach())
            self.outside = by_place(layer, output).shape[1]

    def signs(self) -> int:
        """Random signs that a direction needs for one example."""
        groups = self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1
        return groups * (self.outside + self.places.shape[1])

    def direction(self, signs: Tensor) -> Tensor:
        """a b^T U like the layer's output; signs: examples x `signs()`."""
        rows = signs.reshape(len(self.places), -1)
        a, b = torch.split(rows, [self.outside, self.places.shape[1]], 1)
        moved: Tensor = a[:, :, None] * (b[:, None, :] @ self.places)
        moved = moved.mT if isinstance(self.layer, nn.Linear) else moved
        return moved.reshape(self.offset.shape)

    def kept_bytes(self) -> int:
        """Memory of the unfolded input, and of what two backward passes keep of the output."""
        return (self.places.numel() + 6 * self.offset.numel()) * self.offset.element_size()


def _forward(model: nn.Module, layers: Sequence[Layer], x: Tensor) -> tuple[Tensor, list[_Seen]]:
    """Logits as a function of the layers' offsets, and the layers in the order in which they are applied."""
    seen: list[_Seen] = []

    def look(layer: Layer, inputs: Tensor, output: Tensor) -> Tensor:
        seen.append(_Seen(layer, inputs, output))
        return output + seen[-1].offset

    with watched(layers, look):
        return model(x), seen


def _offsets(seen: Sequence[_Seen]) -> list[Tensor]:
    return [item.offset for item in seen]


def _products(
    gradient: Sequence[Tensor], offsets: Sequence[Tensor], directions: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Derivative of a gradient with a graph along the directions."""
    pairs = [(slope, d) for slope, d in zip(gradient, directions, strict=True) if slope.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(offset) for offset in offsets)
    slopes, along = zip(*pairs, strict=True)
    return torch.autograd.grad(slopes, offsets, along, retain_graph=True, materialize_grads=True)


def _quadratic_forms(loss: Tensor, seen: list[_Seen], low: int, seed: int, probes: range) -> list[list[float]]:
    """Sum over examples of d . (M d), M the Hessian in the outputs, by probe and layer; `low`: the first image."""
    offsets = _offsets(seen)
    gradient = torch.autograd.grad(loss, offsets, create_graph=True, materialize_grads=True)
    counts = [item.signs() for item in seen]
    forms = []
    for probe in probes:
        signs = _signs(seed, probe, low, len(offsets[0]), sum(counts), offsets[0])
        with torch.no_grad():
            directions = [item.direction(part) for item, part in zip(seen, torch.split(signs, counts, 1), strict=True)]
        products = _products(gradient, offsets, directions)
        dots = [(d * p).flatten(1).sum(1).double().sum() for d, p in zip(directions, products, strict=True)]
        forms.append(torch.stack(dots).tolist())
    return forms


def _signs(seed: int, probe: int, low: int, images: int, count: int, like: Tensor) -> Tensor:
    """-1 and 1, images x count, drawn block by block."""
    blocks = []
    for block in range(low // BLOCK, -(-(low + images) // BLOCK)):
        random = generator(like.device, seed, "probe of each example", probe, block)
        blocks.append(torch.randint(2, (BLOCK, count), generator=random, device=like.device, dtype=torch.int8))
    return torch.cat(blocks)[:images].to(like.dtype).mul_(2).sub_(1)
