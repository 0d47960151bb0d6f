"""The blocks of every transformer here: pre-norm attention and MLP over tokens (N, L, width).

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; norm first as in Xiong et al. 2020, https://arxiv.org/abs/2002.04745.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.errors import ConfigError

WIDTH = 96
DEPTH = 3
HEADS = 3
MAX_TOKENS = 64  # most tokens that a default patch may leave

_MASKED = -1e9  # a score that leaves the softmax; finite, so that no graph has to carry an infinity


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, L, width), written out.

    Queries, keys and values have no bias: the gradient of a key bias is zero in theory (softmax ignores a
    constant), and Adam turns its rounding noise into steps; BEiT drops it too.

    Args:
        width: size of a token, a multiple of `heads`.
        heads: number of heads.
        causal: a token sees itself and those before it only.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.width, self.heads, self.causal = width, heads, causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the tokens; same shape."""
        tokens, size = x.shape[1], self.width // self.heads
        split = self.qkv(x).reshape(-1, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        scores = (query * size**-0.5) @ key.transpose(-2, -1)
        if self.causal:
            place = torch.arange(tokens, device=x.device)
            scores = scores + _MASKED * (place.unsqueeze(0) > place.unsqueeze(1)).to(scores.dtype)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(-1, tokens, self.width)
        y: Tensor = self.out(mixed)
        return y


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; the MLP is four times as wide."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp1 = nn.Linear(width, 4 * width)
        self.mlp2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, L, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        # the erf form: its gradient takes fewer ONNX nodes than the tanh form's
        return x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))


class TokenMean(nn.Module):
    """Final norm and mean over tokens: (N, L, width) to (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Averages the normalised tokens."""
        y: Tensor = self.norm(x)
        return y.mean(1)


def blocks(encoder: str, width: int, depth: int, heads: int, causal: bool = False) -> dict[str, nn.Module]:
    """Stages block1 ... block`depth`; ConfigError naming `encoder` where the sizes do not fit."""
    for option, value in (("width", width), ("depth", depth), ("heads", heads)):
        if type(value) is not int or value < 1:
            raise ConfigError(f"{encoder} {option}: expected an integer of at least 1, found {value!r}")
    if width % heads:
        raise ConfigError(f"{encoder} width: expected a multiple of the {heads} heads, found {width}")
    if type(causal) is not bool:
        raise ConfigError(f"{encoder} causal: expected true or false, found {causal!r}")
    return {f"block{number}": Block(width, heads, causal) for number in range(1, depth + 1)}


def positions(tokens: int, width: int) -> nn.Parameter:
    """Learned positions (tokens, width), drawn as in the ViT."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, width), std=0.02))


def check_norm(encoder: str, norm: str) -> None:
    """Refuse, by ConfigError, every norm but "layer": the recipe's `norm` is an option of all encoders."""
    if norm != "layer":
        raise ConfigError(f"unknown norm {norm!r}; the {encoder} takes layer")


def is_causal(module: nn.Module) -> bool:
    """Whether `module` has attention and all of it looks back only."""
    found = [part.causal for part in module.modules() if isinstance(part, Attention)]
    return bool(found) and all(found)
