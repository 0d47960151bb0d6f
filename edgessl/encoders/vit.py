"""A tiny vision transformer for images and spectrograms: by default 3 blocks of 96 channels and 3 heads.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929. Patches are cut by reshaping and embedded by a
matrix product, so that their gradient is a matrix product too.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from edgessl.encoders.base import Stages
from edgessl.encoders.transformer import DEPTH, HEADS, MAX_TOKENS, WIDTH, TokenMean, blocks, check_norm, positions
from edgessl.errors import ConfigError

MIN_PATCH = 4


class PatchEmbedding(nn.Module):
    """Cuts (N, C, H, W) into square patches: tokens (N, H/patch * W/patch, width) with learned positions."""

    no_decay = frozenset({"position"})

    def __init__(self, input_shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        self.grid = (channels, height // patch, patch, breadth // patch, patch)
        self.tokens = (height // patch) * (breadth // patch)
        self.embed = nn.Linear(channels * patch * patch, width)
        self.position = positions(self.tokens, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in row order, patch values in (C, row, column) order."""
        patches = x.reshape(-1, *self.grid).permute(0, 2, 4, 1, 3, 5)
        tokens: Tensor = self.embed(patches.reshape(-1, self.tokens, self.embed.in_features))
        return tokens + self.position


def vit(
    input_shape: tuple[int, int, int],
    *,
    norm: str = "layer",
    patch: int | None = None,
    width: int = WIDTH,
    depth: int = DEPTH,
    heads: int = HEADS,
) -> Stages:
    """Stages patches, block1 ... block`depth`, pool for samples (C, H, W); embedding `width`.

    `patch` is the side of a patch in pixels and must divide both sides; None takes the smallest, 4 or more,
    that gives 64 tokens or fewer. `norm` is "layer", the only kind here.
    """
    check_norm("vit", norm)
    _, height, breadth = input_shape
    if patch is None:
        patch = _default_patch(height, breadth)
    if not isinstance(patch, int) or patch < 1 or height % patch or breadth % patch:
        raise ConfigError(f"vit patch: expected a divisor of {height} and {breadth}, found {patch!r}")
    body = blocks("vit", width, depth, heads)
    return {"patches": PatchEmbedding(input_shape, patch, width), **body, "pool": TokenMean(width)}


def _default_patch(height: int, breadth: int) -> int:
    common = math.gcd(height, breadth)
    for patch in range(MIN_PATCH, common + 1):
        if common % patch == 0 and height * breadth <= MAX_TOKENS * patch * patch:
            return patch
    raise ConfigError(
        f"vit: no patch of {MIN_PATCH} pixels or more cuts {height} x {breadth} into {MAX_TOKENS} tokens "
        "or fewer; give the option patch, crop the input, or take a convolutional encoder"
    )
