"""A network's first convolution, whose gradient to images of few channels takes a sixth of an attack's time on CPUs.

Convolutions compute output channels in blocks of the width of a vector register: of three channels, four fifths of the
work is for nothing. Here the gradient of 2x2 neighbouring pixels is one position with four times the channels, of one
convolution of stride 2 whose 4x4 kernel holds the 3x3 one at four places.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)

MOST_CHANNELS = 4
"""Of images, so that four times as many fit into one block of 16."""
LEAST_POSITIONS = 2**14
"""In a batch of images; with fewer, what surrounds the convolution costs more than it saves (docs/benchmarks.md)."""
Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From images, weight and bias to what the convolution makes of them."""


def convolution_of(conv: nn.Conv2d) -> Convolve:
    """What `conv` computes with a weight and a bias like its own, with the fast gradient where that is one."""
    plain: Convolve = conv._conv_forward
    if not takes_images(conv):
        return plain

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        wanted = x.requires_grad and x.device.type == "cpu" and len(x) * height * width >= LEAST_POSITIONS
        if not wanted or height % 2 or width % 2:
            return plain(x, weight, bias)
        found: Tensor = _ImageConvolution.apply(x, weight, bias)
        return found

    return convolve


def takes_images(conv: nn.Module) -> bool:
    """Whether it is a 3x3 convolution of few channels that keeps the size."""
    if type(conv) is not nn.Conv2d or conv.in_channels > MOST_CHANNELS:
        return False
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


class _ImageConvolution(torch.autograd.Function):
    """conv2d(x, weight, bias, padding=1) of x, B x C x H x W with even H and W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        of_x = _unfolded(F.conv2d(gradient, _four_places(weight).to(gradient.dtype), stride=2, padding=1), x.shape)
        wanted = (False, *ctx.needs_input_grad[1:])
        of_weight = of_bias = None
        if any(wanted):
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                gradient, x.to(gradient.dtype), weight.to(gradient.dtype), weight.shape[:1],
                (1, 1), (1, 1), (1, 1), False, (0, 0), 1, wanted,
            )  # fmt: skip
        return of_x.to(x.dtype), of_weight, of_bias


def _four_places(weight: Tensor) -> Tensor:
    """The kernel of the gradient of 2x2 pixels, (2 * 2 * C) x outputs x 4 x 4, of a weight outputs x C x 3 x 3."""
    turned = weight.flip(2, 3).transpose(0, 1)
    kernel = weight.new_zeros(2, 2, *turned.shape[:2], 4, 4)
    for row in range(2):
        for column in range(2):
            kernel[row, column, :, :, row : row + 3, column : column + 3] = turned
    return kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)


def _unfolded(pixels: Tensor, shape: torch.Size) -> Tensor:
    """From four pixels at a position, B x (2 * 2 * C) x H/2 x W/2, to B x C x H x W, channels last."""
    images, channels, height, width = shape
    rows = pixels.permute(0, 2, 3, 1).reshape(images, height // 2, width // 2, 2, 2 * channels)
    return rows.transpose(2, 3).reshape(images, height, width, channels).permute(0, 3, 1, 2)
