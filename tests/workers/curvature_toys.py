"""Networks with few weights, their dense Hessians and small splits, for the tests of curvature."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812
from toys import images, labels, seeded

from workers.data.splits import Images, Splits
from workers.measures.hessian import curvature_tensors

CLASSES = 4


class Piecewise(nn.Module):
    """Convolutions of all kinds, batch normalisation, ReLUs in place, a skip, pooling: piecewise linear in each layer.

    For 2 x 4 x 4 images; 500 weights in its matrices.
    """

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        inplace = {"inplace": True} if activation in {nn.ReLU, nn.LeakyReLU, nn.SiLU} else {}
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.active = activation(**inplace)
        self.grouped = nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=2, padding_mode="circular", bias=False)
        self.strided = nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(0, 1))
        self.pool = nn.MaxPool2d(2, stride=1)
        self.hidden = nn.Linear(6, 8)  # on every place
        self.head = nn.Linear(8 * 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self.norm(self.stem(x)))
        x = self.active(self.grouped(x)) + x
        x = self.pool(self.active(self.strided(x)))
        x = self.active(self.hidden(x.flatten(2).mT))
        return self.head(x.flatten(1))


def small_net(activation: type[nn.Module] = nn.ReLU, seed: int = 0, dtype: torch.dtype = torch.float64) -> Piecewise:
    """Nothing in it is at its initial 0 or 1, and its outputs are neither flat nor certain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Piecewise(activation)
        for tensor in (net.norm.weight, net.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
        for tensor in (net.norm.bias, net.norm.running_mean):
            nn.init.uniform_(tensor, -0.5, 0.5)
        with torch.no_grad():
            for tensor in curvature_tensors(net):
                tensor.mul_(2)
    return net.to(dtype).eval()


def batch(count: int = 30, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    return images(count, seed, dtype), labels(count, CLASSES, seed)


def small_splits(count: int = 30) -> Splits:
    def part(seed: int) -> Images:
        pixels = torch.randint(256, (count, 2, 4, 4), generator=seeded(seed), dtype=torch.uint8)
        return Images(pixels, labels(count, CLASSES, seed))

    return Splits(part(1), part(2), part(3), CLASSES, "")


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean cross-entropy in eval mode, P x P, float64, by differentiating a plain function of all weights."""
    net = copy.deepcopy(model).double().eval()
    wanted = {id(tensor) for tensor in curvature_tensors(net)}
    names = [name for name, tensor in net.named_parameters() if id(tensor) in wanted]
    shapes = [net.get_parameter(name).shape for name in names]
    flat = torch.cat([net.get_parameter(name).detach().flatten() for name in names])

    def loss(weights: Tensor) -> Tensor:
        pieces = weights.split([shape.numel() for shape in shapes])
        named = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return F.cross_entropy(functional_call(net, named, (x.double(),)), y)

    found: Any = torch.autograd.functional.hessian(loss, flat)
    return (found + found.T) / 2


def block_traces(hessian: Tensor, model: nn.Module) -> Tensor:
    """Traces of the diagonal blocks."""
    sizes = [tensor.numel() for tensor in curvature_tensors(model)]
    return torch.stack([part.sum() for part in hessian.diagonal().split(sizes)])
