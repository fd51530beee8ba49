"""torchvision's classification networks by name, as known without importing torch; a test compares them with its own.

Smallest sides are counted, not published: below them a layer of the network fails, or one that shrinks its input is
left with a single pixel (in a ViT, attention with a single patch). The tests find them again by trying.
"""

from typing import Literal, get_args

Architecture = Literal[
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
]

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)

LEFT_OUT: dict[str, str] = {
    "maxvit_t": "its 7x7 windows fit images of 224 x 224 pixels and few other sizes",
    "squeezenet1_0": "it ends in a convolution and a ReLU: it has no last linear layer, and no logit below 0",
    "squeezenet1_1": "it ends in a convolution and a ReLU: it has no last linear layer, and no logit below 0",
}
"""Architectures of torchvision that cannot be used here, and why."""

PATCHES: dict[str, int] = {"vit_b_16": 16, "vit_b_32": 32, "vit_h_14": 14, "vit_l_16": 16, "vit_l_32": 32}
"""Side of a patch in pixels: the image's sides are multiples of it."""

_SMALLEST_SIDES: dict[str, int] = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 31,
    "inception": 75,
    "swin": 20,
    "vgg": 32,
}
"""Of the families, by the name's beginning; the others halve the image five times with padding."""

_RELU_FAMILIES = (
    "alexnet",
    "mnasnet",
    "mobilenet_v3",
    "regnet",
    "resnet",
    "resnext",
    "shufflenet",
    "vgg",
    "wide_resnet",
)
"""Families whose ReLUs are all modules. DenseNet, GoogLeNet and Inception call some as functions; MobileNetV2 has
ReLU6, EfficientNet SiLU, ConvNeXt, Swin and ViT GELU (Swin v2's only ReLUs make its table of position biases)."""


def smallest_side(architecture: str) -> int:
    """Smallest image side in pixels that the network accepts."""
    if architecture in PATCHES:
        return 2 * PATCHES[architecture]
    sides = [side for family, side in _SMALLEST_SIDES.items() if architecture.startswith(family)]
    return sides[0] if sides else 17


def has_relu(architecture: str) -> bool:
    """Whether every ReLU of the network is a module that another activation can take the place of."""
    return architecture.startswith(_RELU_FAMILIES)
