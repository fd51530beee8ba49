"""Products of the loss's Hessian with vectors: eager, on fixed examples, with graphs that are kept where they fit."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

from workers.modes import frozen
from workers.weights import perturbed_tensors

CPU_CACHE = 2 * 1024**3
"""Bytes that kept graphs may take on a CPU, whose memory other trials share; on a GPU it is half of what is free."""


def curvature_tensors(model: nn.Module) -> list[nn.Parameter]:
    """Every parameter with more than one dimension of which the logits depend: kernels and matrices of layers."""
    return [parameter for parameter in perturbed_tensors(model) if parameter.dim() > 1]


@contextlib.contextmanager
def differentiated(model: nn.Module, tensors: Sequence[nn.Parameter]) -> Iterator[None]:
    """Eval mode, gradients for `tensors` only, and on a GPU no rounding of products to 10 bits (TF32) inside."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        with frozen(model):
            for tensor in tensors:
                tensor.requires_grad_(True)
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = allowed


class Hessian:
    """Hessian of the mean cross-entropy on fixed examples with respect to some tensors; to be used in `differentiated`.

    Vectors are flat, one entry per weight, the tensors one after another.

    Args:
        model: from images to logits; not changed while this object is in use.
        tensors: what the loss is differentiated by.
        x: images, N x C x H x W.
        y: labels, N.
        batch_size: images in one graph.
        cache_bytes: memory for graphs that are kept from product to product; chosen by device if not given.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Sequence[nn.Parameter],
        x: Tensor,
        y: Tensor,
        batch_size: int,
        cache_bytes: int | None = None,
    ) -> None:
        self.model, self.tensors, self._x, self._y = model, list(tensors), x, y
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self.size = sum(self.sizes)
        self._batches = [slice(low, low + batch_size) for low in range(0, len(y), batch_size)]
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        self._room = float(_free_for_graphs(x.device) if cache_bytes is None else cache_bytes)
        self._bytes_per_image: float | None = None

    @property
    def kept_graphs(self) -> int:
        """Batches whose graph is kept."""
        return len(self._kept)

    def product(self, vector: Tensor) -> Tensor:
        """Hessian times vector, P; float64, in which the batches are summed."""
        vectors = [part.view_as(tensor) for part, tensor in zip(self._split(vector), self.tensors, strict=True)]
        total = torch.zeros(self.size, dtype=torch.float64, device=vector.device)
        for index in range(len(self._batches)):
            gradient, keep = self._gradient(index)
            # a tensor on which the loss does not depend has a gradient of zeros without a graph
            pairs = [(g, v.to(g.dtype)) for g, v in zip(gradient, vectors, strict=True) if g.requires_grad]
            if not pairs:
                continue
            outputs, weights = zip(*pairs, strict=True)
            products = torch.autograd.grad(outputs, self.tensors, weights, retain_graph=keep, materialize_grads=True)
            total += torch.cat([product.reshape(-1) for product in products])
        return total

    def by_tensor(self, entries: Tensor) -> Tensor:
        """Sums of the entries of each tensor, from P to one per tensor."""
        return torch.stack([part.sum() for part in self._split(entries)])

    def _split(self, vector: Tensor) -> tuple[Tensor, ...]:
        return torch.split(vector, self.sizes)

    def _gradient(self, index: int) -> tuple[tuple[Tensor, ...], bool]:
        """One batch's share of the gradient with its graph, and whether that is kept."""
        if index in self._kept:
            return self._kept[index], True
        part = self._batches[index]
        labels = self._y[part]
        loss = F.cross_entropy(self.model(self._x[part]), labels, reduction="sum") / len(self._y)
        gradient = torch.autograd.grad(loss, self.tensors, create_graph=True, materialize_grads=True)
        if self._bytes_per_image is None:
            self._bytes_per_image = graph_bytes(gradient) / len(labels)
        taken = self._bytes_per_image * len(labels)
        if taken > self._room:
            return gradient, False
        self._room -= taken
        self._kept[index] = gradient
        return gradient, True


def _free_for_graphs(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_CACHE


def graph_bytes(outputs: Sequence[Tensor]) -> int:
    """Memory of the tensors that a graph keeps alive for its backward pass."""
    storages: dict[int, int] = {}
    seen = {output.grad_fn for output in outputs if output.grad_fn is not None}
    waiting = list(seen)
    while waiting:
        node = waiting.pop()
        for name in dir(node):
            if name.startswith("_saved_"):
                for tensor in _tensors(getattr(node, name)):
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sum(storages.values())


def _tensors(saved: object) -> list[Tensor]:
    items = saved if isinstance(saved, list | tuple) else [saved]
    return [item for item in items if isinstance(item, Tensor)]
