"""The first convolution with its own gradient against PyTorch's, in double precision."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import seeded

from workers import image_convolution
from workers.image_convolution import Convolve, convolution_of, takes_images


@pytest.fixture(autouse=True)
def _small_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_convolution, "LEAST_POSITIONS", 1)


def gradients(convolve: Convolve, inputs: list[Tensor | None], outwards: Tensor) -> list[Tensor]:
    wanted = [tensor.requires_grad_() for tensor in inputs if tensor is not None]
    found = convolve(*inputs)
    return [found.detach(), *torch.autograd.grad(found, wanted, outwards)]


@settings(deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_equals_the_plain_one(
    channels: int, outputs: int, images: int, rows: int, columns: int, biased: bool, last: bool
) -> None:
    """Of all sizes, odd ones among them, in both layouts, with and without a bias."""
    random = seeded(channels + 7 * rows)
    conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=biased)
    for height, width in ((2 * rows, 2 * columns), (rows, columns)):
        draw = functools.partial(torch.randn, generator=random, dtype=torch.float64)
        x = draw(images, channels, height, width)
        inputs = [
            x.contiguous(memory_format=torch.channels_last) if last else x,
            draw(outputs, channels, 3, 3),
            draw(outputs) if biased else None,
        ]
        outwards = draw(images, outputs, height, width)
        again = [None if tensor is None else tensor.clone() for tensor in inputs]
        plain = gradients(lambda x, w, b: F.conv2d(x, w, b, padding=1), again, outwards)
        for found, expected in zip(gradients(convolution_of(conv), inputs, outwards), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_is_the_fast_one_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare PyTorch with itself."""
    conv, calls = nn.Conv2d(3, 4, 3, padding=1), []
    convolve = convolution_of(conv)
    apply = image_convolution._ImageConvolution.apply
    monkeypatch.setattr(image_convolution._ImageConvolution, "apply", lambda *args: calls.append(1) or apply(*args))
    image = torch.rand(1, 3, 4, 4)
    for x, fast in (
        (image.clone().requires_grad_(), True),
        (image, False),  # nobody asks for the gradient
        (torch.rand(1, 3, 5, 4, requires_grad=True), False),
    ):
        convolve(x, conv.weight, conv.bias)
        assert bool(calls) is fast
        calls.clear()
    monkeypatch.setattr(image_convolution, "LEAST_POSITIONS", 17)
    convolve(image.clone().requires_grad_(), conv.weight, conv.bias)
    assert not calls


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(5, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.Conv2d(3, 4, 5, padding=2),
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Linear(3, 4),
    ],
    ids=str,
)
def test_others_stay_as_they_are(conv: nn.Module) -> None:
    assert not takes_images(conv)
    assert takes_images(nn.Conv2d(3, 4, 3, padding="same")) is False


def test_in_bfloat16_as_autocast_has_it() -> None:
    """Gradients have the precision of what they belong to."""
    conv = nn.Conv2d(3, 8, 3, padding=1)
    x, outwards = torch.rand(2, 3, 8, 8, generator=seeded(0)), torch.randn(2, 8, 8, 8, generator=seeded(1))
    found = []
    for convolve in (convolution_of(conv), conv._conv_forward):
        inputs: list[Tensor | None] = [x.clone(), conv.weight.detach().clone(), conv.bias.detach().clone()]
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            found.append(gradients(convolve, inputs, outwards.bfloat16()))
    for fast, plain in zip(*found, strict=True):
        assert fast.dtype == plain.dtype
        torch.testing.assert_close(fast, plain, rtol=0.02, atol=0.02 * float(plain.abs().max()))
