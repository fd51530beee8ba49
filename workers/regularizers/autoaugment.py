"""AutoAugment on a whole batch: torchvision's policy, draws and pixels, one call for all images with an operation."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the usual name)
from torchvision.transforms import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms import functional as TF  # noqa: N812
from torchvision.transforms.v2 import functional as TF2  # noqa: N812

from orchestrator.spec import regularizers as spec
from workers.data.batches import to_unit
from workers.labels import Labels

Step = dict[str, tuple[list[int], list[float]]]
"""Operations: the images that undergo each, and its magnitude for each of them."""


class AutoAugment:
    """torchvision's CIFAR-10 policy, one sub-policy per image, on 8-bit pixels as it was found for."""

    def __init__(self, _spec: spec.AutoAugment) -> None:
        # pairs of (operation, probability, level 0 ... 9 or None)
        self.policy = TorchvisionAutoAugment(AutoAugmentPolicy.CIFAR10).policies

    def transform(self, x: Tensor, labels: Labels, random: torch.Generator) -> tuple[Tensor, Labels]:
        """The labels stay."""
        # plane after plane in memory: histograms and sharpening are fastest so
        pixels = x.mul(255).round_().to(torch.uint8, memory_format=torch.contiguous_format)
        count, _, height, width = x.shape
        for step in self._drawn(count, height, width, random.initial_seed()):
            for name, (images, magnitudes) in step.items():
                chosen = torch.tensor(images, device=x.device)
                pixels.index_copy_(0, chosen, OPERATIONS[name](pixels.index_select(0, chosen), magnitudes))
        return to_unit(pixels.contiguous(memory_format=torch.channels_last)), labels

    def _drawn(self, count: int, height: int, width: int, seed: int) -> Iterator[Step]:
        """What happens to the images first, and what happens second."""
        chosen, chances, signs = _draws(count, len(self.policy), seed)
        limits = torch.tensor([[probability for _, probability, _ in pair] for pair in self.policy])[chosen]
        happens, positive = (chances <= limits).tolist(), signs.bool().tolist()
        for position in (0, 1):
            step: Step = defaultdict(lambda: ([], []))
            for image, policy in enumerate(chosen.tolist()):
                if happens[image][position]:
                    name, _, level = self.policy[policy][position]
                    images, magnitudes = step[name]
                    images.append(image)
                    magnitudes.append(_magnitude(name, level, positive[image][position], height, width))
            yield step


def _draws(count: int, policies: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sub-policies, B, chances in [0, 1), B x 2, and signs 0 or 1, B x 2: torchvision's numbers, on the CPU.

    torchvision draws these five image by image. A number of any kind takes one word of the generator, so three streams
    from the same seed hold them all, each read where torchvision draws its kind.
    """
    shape = count, 5
    streams = [torch.Generator().manual_seed(seed) for _ in range(3)]
    chosen = torch.randint(policies, shape, generator=streams[0])
    chances = torch.rand(shape, dtype=torch.float32, generator=streams[1])
    signs = torch.randint(2, shape, generator=streams[2])
    return chosen[:, 0], chances[:, 1:3], signs[:, 3:]


RANGES = {
    "ShearY": (0, 0.3),  # pixels per pixel
    "TranslateX": (0, 150 / 331),  # of the width
    "TranslateY": (0, 150 / 331),  # of the height
    "Rotate": (0, 30),  # degrees
    "Brightness": (0, 0.9),
    "Color": (0, 0.9),
    "Contrast": (0, 0.9),
    "Sharpness": (0, 0.9),
    "Posterize": (8, 4),  # bits that stay
    "Solarize": (255, 0),  # grey level from which on pixels are inverted
}
"""Magnitudes of the levels 0 and 9, the others evenly between them: the paper's ranges, as torchvision has them."""


@lru_cache(maxsize=256)
def _magnitude(name: str, level: int | None, positive: bool, height: int, width: int) -> float:
    """The magnitude of a level; those that start at 0 have a sign. 0 for an operation without levels."""
    if level is None:
        return 0.0
    first, last = RANGES[name]
    side = {"TranslateX": width, "TranslateY": height}.get(name, 1)
    value = float(torch.linspace(first, last * side, 10, dtype=torch.float32)[level])  # in float32, as torchvision's
    return value if positive or first > 0 else -value


# ---- operations: images, uint8, B x C x H x W, and a magnitude for each -> the same shape and type -------------------


def _column(values: list[float], like: Tensor) -> Tensor:
    """One number per image, float32, B x 1 x 1 x 1."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None, None]


def _blend(x: Tensor, other: Tensor, magnitudes: list[float]) -> Tensor:
    """`other` at magnitude -1, x at 0, as far beyond it at 1; cut to 0 ... 255 and rounded down."""
    own, others = (_column(weights, x) for weights in ([1 + m for m in magnitudes], [-m for m in magnitudes]))
    return (own * x + others * other).clamp_(0, 255).to(torch.uint8)


def _brightness(x: Tensor, magnitudes: list[float]) -> Tensor:
    return _blend(x, torch.zeros_like(x), magnitudes)


def _color(x: Tensor, magnitudes: list[float]) -> Tensor:
    return x if x.shape[1] == 1 else _blend(x, TF.rgb_to_grayscale(x), magnitudes)


def _contrast(x: Tensor, magnitudes: list[float]) -> Tensor:
    return _blend(x, TF.rgb_to_grayscale(x).float().mean((1, 2, 3), keepdim=True), magnitudes)


def _sharpness(x: Tensor, magnitudes: list[float]) -> Tensor:
    if min(x.shape[2:]) <= 2:  # no pixel has all its neighbours
        return x
    return _blend(x, TF.adjust_sharpness(x, 0.0), magnitudes)  # 0: the smoothed image


def _posterize(x: Tensor, magnitudes: list[float]) -> Tensor:
    masks = [256 - 2 ** (8 - round(m)) for m in magnitudes]
    return x & torch.tensor(masks, dtype=torch.uint8, device=x.device)[:, None, None, None]


def _solarize(x: Tensor, magnitudes: list[float]) -> Tensor:
    return torch.where(x >= _column(magnitudes, x), 255 - x, x)


def _moved(name: str, x: Tensor, magnitudes: list[float]) -> Tensor:
    sources = torch.stack([_sources(name, m, *x.shape[2:]) for m in magnitudes]).to(x.device)
    places = F.pad(x.flatten(2), (1, 0))  # place 0 is black
    return places.gather(2, sources[:, None].expand(-1, x.shape[1], -1)).view_as(x)


@lru_cache(maxsize=256)
def _sources(name: str, magnitude: float, height: int, width: int) -> Tensor:
    """Where torchvision takes each pixel from, int64, H * W: places from 1 on, row by row; 0: from outside."""
    places = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    if name == "Rotate":
        moved = TF.rotate(places, magnitude)
    elif name == "ShearY":
        moved = TF.affine(places, 0, [0, 0], 1, [0, math.degrees(math.atan(magnitude))], center=[0, 0])
    else:
        shift = [int(magnitude), 0] if name == "TranslateX" else [0, int(magnitude)]
        moved = TF.affine(places, 0, shift, 1, [0, 0])
    sources: Tensor = moved.flatten().to(torch.int64)
    return sources


Operation = Callable[[Tensor, list[float]], Tensor]
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda x, _: TF.autocontrast(x),
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Equalize": lambda x, _: TF2.equalize(x),
    "Invert": lambda x, _: TF.invert(x),
    "Posterize": _posterize,
    "Rotate": partial(_moved, "Rotate"),
    "Sharpness": _sharpness,
    "ShearY": partial(_moved, "ShearY"),
    "Solarize": _solarize,
    "TranslateX": partial(_moved, "TranslateX"),
    "TranslateY": partial(_moved, "TranslateY"),
}
