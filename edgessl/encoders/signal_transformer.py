"""A tiny transformer for windows of sensor channels or raw audio: patches of a few time steps as tokens.

The patches of Nie et al. 2022 (PatchTST, https://arxiv.org/abs/2211.14730), not overlapping and with all channels in
one token, since edge sensors' axes mean little by themselves.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgessl.encoders.base import Stages
from edgessl.encoders.transformer import DEPTH, HEADS, MAX_TOKENS, WIDTH, TokenMean, blocks, check_norm, positions
from edgessl.errors import ConfigError

MIN_PATCH = 4


class SignalPatches(nn.Module):
    """Cuts (N, C, T) into patches of `patch` time steps: tokens (N, T/patch, width) with learned positions."""

    no_decay = frozenset({"position"})

    def __init__(self, input_shape: tuple[int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, steps = input_shape
        self.grid = (channels, steps // patch, patch)
        self.tokens = steps // patch
        self.embed = nn.Linear(channels * patch, width)
        self.position = positions(self.tokens, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in order of time, patch values in (C, step) order."""
        patches = x.reshape(-1, *self.grid).permute(0, 2, 1, 3)
        tokens: Tensor = self.embed(patches.reshape(-1, self.tokens, self.embed.in_features))
        return tokens + self.position


def signal_transformer(
    input_shape: tuple[int, int],
    *,
    norm: str = "layer",
    patch: int | None = None,
    width: int = WIDTH,
    depth: int = DEPTH,
    heads: int = HEADS,
    causal: bool = False,
) -> Stages:
    """Stages patches, block1 ... block`depth`, pool for samples (C, T); embedding `width`.

    `patch` is the length of a patch in time steps and must divide T; None takes the smallest, 4 or more, that gives
    64 tokens or fewer. With `causal` a token sees only what came before it, as the objective "causal" needs.
    """
    check_norm("signal_transformer", norm)
    steps = input_shape[1]
    if patch is None:
        patch = _default_patch(steps)
    if type(patch) is not int or patch < 1 or steps % patch:
        raise ConfigError(f"signal_transformer patch: expected a divisor of {steps}, found {patch!r}")
    body = blocks("signal_transformer", width, depth, heads, causal)
    return {"patches": SignalPatches(input_shape, patch, width), **body, "pool": TokenMean(width)}


def _default_patch(steps: int) -> int:
    for patch in range(MIN_PATCH, steps + 1):
        if steps % patch == 0 and steps <= MAX_TOKENS * patch:
            return patch
    raise ConfigError(
        f"signal_transformer: no patch of {MIN_PATCH} steps or more cuts {steps} steps; give the option patch, "
        "take longer windows, or take cnn1d"
    )
