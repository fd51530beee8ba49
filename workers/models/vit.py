"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), normalised before attention and MLP."""

import torch
from torch import Tensor, nn

from orchestrator.spec.models import VitSmall
from workers.models.layers import Shape

MLP_FACTOR = 4
POSITION_STD = 0.02


class Attention(nn.Module):
    """Every patch looks at every patch: softmax(q k^T / sqrt(d)) v in each head.

    Written out: torch's fused attention has no second derivative, which input-gradient penalties and Hessians take.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """B x patches x width to the same shape."""
        batch, patches, width = x.shape
        q, k, v = self.qkv(x).view(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        result: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, patches, width))
        return result


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_FACTOR * width), nn.GELU(), nn.Linear(MLP_FACTOR * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """B x patches x width to the same shape."""
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class VisionTransformer(nn.Module):
    """Patches with learned positions, blocks, normalisation, mean over the patches, linear layer.

    Args:
        shape: channels, height, width of the images, whose sides are multiples of `patch`.
        patch: side of a patch in pixels.
        width: numbers per patch, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads in each.
        classes: number of logits.
    """

    def __init__(self, shape: Shape, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        channels, rows, columns = shape[0], shape[1] // patch, shape[2] // patch
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, rows * columns, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, B x classes, of images B x channels x height x width."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.linear(self.norm(self.blocks(tokens)).mean(1))
        return logits

    def _initialise(self) -> None:
        """LeCun's normal patches, positions of deviation .02, Xavier's linear layers (the head's too), biases 0."""
        nn.init.normal_(self.positions, std=POSITION_STD)
        nn.init.kaiming_normal_(self.patches.weight, nonlinearity="linear")
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)


def vit_small(spec: VitSmall, shape: Shape, classes: int) -> VisionTransformer:
    """DeiT-S's size unless the spec says otherwise."""
    return VisionTransformer(shape, spec.patch, spec.width, spec.depth, spec.heads, classes)
