"""A tiny vision transformer for images and spectrograms: 3 pre-norm blocks of 96 channels and 3 heads.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929. Patches are cut by reshaping and embedded by a
matrix product, so that their gradient is a matrix product too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.encoders.base import Stages
from edgessl.errors import ConfigError

DIM = 96
HEADS = 3
BLOCKS = 3
HIDDEN = 4 * DIM
MIN_PATCH = 4
MAX_TOKENS = 64


class PatchEmbedding(nn.Module):
    """Cuts (N, C, H, W) into square patches: tokens (N, H/patch * W/patch, DIM) with learned positions."""

    no_decay = frozenset({"position"})

    def __init__(self, input_shape: tuple[int, int, int], patch: int) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        self.grid = (channels, height // patch, patch, breadth // patch, patch)
        self.tokens = (height // patch) * (breadth // patch)
        self.embed = nn.Linear(channels * patch * patch, DIM)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.tokens, DIM), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in row order, patch values in (C, row, column) order."""
        patches = x.reshape(-1, *self.grid).permute(0, 2, 4, 1, 3, 5)
        tokens: Tensor = self.embed(patches.reshape(-1, self.tokens, self.embed.in_features))
        return tokens + self.position


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, T, DIM), written out.

    Queries, keys and values have no bias: the gradient of a key bias is zero in theory (softmax ignores a
    constant), and Adam turns its rounding noise into steps; BEiT drops it too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the tokens; same shape."""
        tokens = x.shape[1]
        split = self.qkv(x).reshape(-1, tokens, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        scores = (query * (DIM // HEADS) ** -0.5) @ key.transpose(-2, -1)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(-1, tokens, DIM)
        y: Tensor = self.out(mixed)
        return y


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp1 = nn.Linear(DIM, HIDDEN)
        self.mlp2 = nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, DIM) to the same shape."""
        x = x + self.attention(self.norm1(x))
        # the erf form: its gradient takes fewer ONNX nodes than the tanh form's
        return x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))


class TokenMean(nn.Module):
    """Final norm and mean over tokens: (N, T, DIM) to (N, DIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Averages the normalised tokens."""
        y: Tensor = self.norm(x)
        return y.mean(1)


def vit(input_shape: tuple[int, int, int], *, norm: str = "layer", patch: int | None = None) -> Stages:
    """Stages patches, block1 ... block3, pool for samples (C, H, W); embedding 96.

    `patch` is the side of a patch in pixels and must divide both sides; None takes the smallest, 4 or more,
    that gives 64 tokens or fewer. `norm` is "layer", the only kind here.
    """
    if norm != "layer":
        raise ConfigError(f"unknown norm {norm!r}; the vit takes layer")
    _, height, breadth = input_shape
    if patch is None:
        patch = _default_patch(height, breadth)
    if not isinstance(patch, int) or patch < 1 or height % patch or breadth % patch:
        raise ConfigError(f"vit patch: expected a divisor of {height} and {breadth}, found {patch!r}")
    blocks = {f"block{number}": Block() for number in range(1, BLOCKS + 1)}
    return {"patches": PatchEmbedding(input_shape, patch), **blocks, "pool": TokenMean()}


def _default_patch(height: int, breadth: int) -> int:
    common = math.gcd(height, breadth)
    for patch in range(MIN_PATCH, common + 1):
        if common % patch == 0 and height * breadth <= MAX_TOKENS * patch * patch:
            return patch
    raise ConfigError(
        f"vit: no patch of {MIN_PATCH} pixels or more cuts {height} x {breadth} into {MAX_TOKENS} tokens "
        "or fewer; give the option patch, crop the input, or take a convolutional encoder"
    )
