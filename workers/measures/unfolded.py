"""Linear layers and 2-D convolutions as one thing: output = weight times unfolded input, for every example and place.

U is the unfolded input, K x S, with S places; the weight is O x K, the output O x S. The groups of a grouped
convolution are like further examples with a weight of their own.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

Layer = nn.Linear | nn.Conv2d
Look = Callable[[Layer, Tensor, Tensor], Tensor | None]
"""From a layer, its input and its output to what takes the output's place; None: the output itself."""


def layers_of(model: nn.Module, tensors: Sequence[nn.Parameter]) -> list[Layer]:
    """The linear layers and 2-D convolutions whose weights are among the tensors, each weight once."""
    asked = {id(tensor) for tensor in tensors}
    found = {id(m.weight): m for m in model.modules() if isinstance(m, Layer) and id(m.weight) in asked}
    return list(found.values())


@contextlib.contextmanager
def watched(layers: Sequence[Layer], look: Look) -> Iterator[None]:
    """Calls `look` inside whenever one of the layers is applied."""
    hooks = [layer.register_forward_hook(lambda m, inputs, out: look(m, inputs[0], out)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def why_not_layers(model: nn.Module, tensors: Sequence[nn.Parameter], x: Tensor) -> str | None:
    """What keeps the tensors from being weights of layers that are each applied once, in words; None: nothing.

    Args:
        model: from images to logits.
        tensors: parameters of it, which require gradients.
        x: a few images.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owners = [m for m in model.modules() if isinstance(m, Layer) and id(m.weight) in {id(t) for t in tensors}]
    for tensor in tensors:
        if all(layer.weight is not tensor for layer in owners):
            return f"{names[id(tensor)]} is not the weight of a linear layer or a 2-D convolution"
    calls: dict[int, tuple[Layer, Tensor, Tensor]] = {}
    again: list[str] = []

    def look(layer: Layer, inputs: Tensor, output: Tensor) -> Tensor:
        if id(layer.weight) in calls:
            again.append(f"{names[id(layer.weight)]} is used more than once")
        calls[id(layer.weight)] = layer, unfolded(layer, inputs.detach()), output
        return output.clone()

    with watched(owners, look):
        logits = model(x)
    if again:
        return again[0]
    expected = torch.autograd.grad(logits.sum(), tensors, retain_graph=True, materialize_grads=True)
    for tensor, gradient in zip(tensors, expected, strict=True):
        difference = gradient
        if id(tensor) in calls:
            layer, places, output = calls[id(tensor)]
            (slope,) = torch.autograd.grad(logits.sum(), output, retain_graph=True, materialize_grads=True)
            parts = by_place(layer, slope) @ places.mT
            difference = gradient - parts.view(len(x), *tensor.shape).sum(0)
        if bool(difference.norm() > 1e-3 * gradient.norm()):
            return f"{names[id(tensor)]} is also used outside of its layer"
    return None


def unfolded(layer: Layer, x: Tensor) -> Tensor:
    """U of every example and group, B*groups x K x S, of a layer's input."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).mT
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = ((pair[0], pair[1]) for pair in (layer.kernel_size, layer.dilation, layer.stride))
    places = F.unfold(x, kernel, dilation, 0, stride)
    return places.view(len(x) * layer.groups, -1, places.shape[2])


def by_place(layer: Layer, output: Tensor) -> Tensor:
    """A layer's output, or a gradient there, as B*groups x O x S."""
    if isinstance(layer, nn.Linear):
        return output.reshape(len(output), -1, output.shape[-1]).mT
    return output.reshape(len(output) * layer.groups, output.shape[1] // layer.groups, -1)
