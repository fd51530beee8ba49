"""Small networks of every name of the vocabulary, on real memory and on torch's `meta` device, for the tests."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer
from toys import CPU, seeded

from orchestrator.spec.models import MODELS, Model
from workers.data.splits import Images, Splits
from workers.models.classifier import Classifier, build_classifier
from workers.models.layers import Shape
from workers.models.vit import VisionTransformer

SMALL: dict[str, dict[str, Any]] = {
    "small_preact_resnet": {"width": 4},
    "preact_resnet18": {"width": 4},
    "resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "widen": 1},
    "cnn": {"width": 4, "depth": 1},
    "vgg16_bn": {"width": 4},
    "vit_small": {"patch": 2, "width": 12, "depth": 2, "heads": 3},
    "torchvision": {"architecture": "shufflenet_v2_x0_5"},
}
NORMED = ("small_preact_resnet", "preact_resnet18", "resnet18", "wide_resnet", "cnn", "vgg16_bn")
"""The networks with a choice of normalisation."""
FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
)
"""One small architecture of each of torchvision's families."""


def spec_of(name: str, **parameters: Any) -> Model:
    """The small network called `name`; what is given replaces its parameters."""
    return MODELS.parse({"name": name, **SMALL[name], **parameters})


def some_splits(channels: int, side: int, classes: int = 10, seed: int = 0, count: int = 40) -> Splits:
    x = torch.randint(0, 200, (count, side, side, channels), generator=seeded(seed), dtype=torch.uint8)
    part = Images(x.permute(0, 3, 1, 2), torch.arange(count) % classes)
    return Splits(part, part, part, classes, "")


def side_for(spec: Model) -> int:
    """8 where the network takes it, else 32."""
    return 32 if spec.misfit(8, 8) else 8


def build(name: str, seed: int = 0, splits: Splits | None = None, **parameters: Any) -> Classifier:
    spec = spec_of(name, **parameters)
    return build_classifier(spec, splits or some_splits(1, side_for(spec)), seed, CPU)


class _NewTensorsOnMeta(TorchFunctionMode):
    """Parameters are made on `meta` and computed ones are not: RegNet reads its widths from a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in {torch.empty, torch.zeros, torch.ones}:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def on_meta(spec: Model, shape: Shape, classes: int = 10) -> nn.Module:
    """The network without memory behind it: it can be counted and run for shapes, whatever its size."""
    with _NewTensorsOnMeta() if "regnet" in spec.label() else torch.device("meta"):
        network: nn.Module = spec.load()(spec, shape, classes)
    return network.to("meta")


def images_on_meta(shape: Shape, count: int = 2) -> Tensor:
    return torch.empty(count, *shape, device="meta")


@contextlib.contextmanager
def single_pixels(network: nn.Module) -> Iterator[list[str]]:
    """Yields a list that fills with the layers that shrink a single pixel; in a ViT, make one patch or cut one."""
    seen: list[str] = []
    transformers = [m for m in network.modules() if isinstance(m, VisionTransformer | TorchvisionTransformer)]
    patches = [m.patches if isinstance(m, VisionTransformer) else m.conv_proj for m in transformers]

    def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        before = inputs[0].shape[1:3] if isinstance(module, PatchMerging | PatchMergingV2) else inputs[0].shape[-2:]
        if module in patches:
            whole = [count * side for count, side in zip(out.shape[-2:], module.kernel_size, strict=True)]
            if list(before) != whole or out[0, 0].numel() < 2:
                seen.append(str(module))
        elif min(before) < 2:
            seen.append(str(module))

    watched = [module for module in network.modules() if _shrinks(module) or module in patches]
    hooks = [module.register_forward_hook(note) for module in watched]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _shrinks(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return max(module.stride) > 1 if isinstance(module.stride, tuple) else module.stride > 1
    return isinstance(module, PatchMerging | PatchMergingV2)


def takes_side(spec: Model, side: int) -> bool:
    """By trying: whether images of this side go through the network, and no layer shrinks a single pixel."""
    shape = (3, side, side)
    try:
        network = on_meta(spec, shape)
        with single_pixels(network) as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = network.train()(images_on_meta(shape))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return logits.shape == (2, 10) and not seen
