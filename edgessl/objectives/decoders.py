"""Small decoders, thrown away after pretraining: from features back to the shape of the sample."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder
from edgessl.encoders.norm import ConvNorm
from edgessl.encoders.signal_transformer import SignalPatches
from edgessl.encoders.transformer import Block, is_causal, positions
from edgessl.encoders.vit import PatchEmbedding
from edgessl.errors import ConfigError
from edgessl.objectives.functional.masked import MAX_MASKED_TOKENS, patchify, unpatchify
from edgessl.views.sampling import bilinear


def patch_stage(encoder: Encoder, objective: str) -> PatchEmbedding | SignalPatches:
    """The stage that cuts the encoder's input into patches.

    Raises:
        ConfigError: it has none, cuts more patches than a mask is drawn over, or its tokens only see those before them.
    """
    stage = encoder.stages[0]
    if not isinstance(stage, PatchEmbedding | SignalPatches):
        raise ConfigError(
            f"objective {objective!r} hides patches: it takes the encoders vit and signal_transformer, found one whose "
            f"first stage is {encoder.stage_names[0]!r}; the objective simmim masks the input of any encoder"
        )
    if stage.tokens > MAX_MASKED_TOKENS:
        raise ConfigError(
            f"objective {objective!r}: expected {MAX_MASKED_TOKENS} patches or fewer, found {stage.tokens}; give the "
            "encoder a larger patch"
        )
    if is_causal(encoder):
        raise ConfigError(
            f"objective {objective!r} looks both ways from what is hidden; set the encoder's causal = false"
        )
    return stage


def mask_noise(shape: tuple[int, ...]) -> int:
    """Noise columns for a mask over the tokens of samples of `shape`, however the encoder cuts them."""
    return min(MAX_MASKED_TOKENS, math.prod(shape[1:]))


class Patches(nn.Module):
    """`patchify` as a part of the network, which knows the size of the encoder's patches. No parameters."""

    def __init__(self, stage: PatchEmbedding | SignalPatches) -> None:
        super().__init__()
        self.patch = stage.grid[2::2]

    def forward(self, x: Tensor) -> Tensor:
        """The values (N, L, P) of the patches that become the L tokens."""
        return patchify(x, self.patch)


class TokenDecoder(nn.Module):
    """MAE's decoder: visible tokens at their places, a learned token at the others, some blocks, one linear layer.

    Args:
        tokens: number of places; width_in: size of the encoder's tokens; width: of the decoder's, about 32 a head.
        depth: blocks; out: values predicted at each place.
    """

    no_decay = frozenset({"position", "blank"})

    def __init__(self, tokens: int, width_in: int, width: int, depth: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width_in, width)
        self.blank = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.position = positions(tokens, width)
        self.blocks = nn.Sequential(*[Block(width, math.gcd(width, max(1, width // 32))) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, out)

    def forward(self, visible: Tensor, selection: Tensor) -> Tensor:
        """Visible tokens (N, K, width_in) and the matrices (N, K, L) that took them out, to (N, L, out)."""
        places = selection.transpose(1, 2)
        hidden = 1 - places.sum(dim=2, keepdim=True)
        tokens = places @ self.enter(visible) + hidden * self.blank + self.position
        values: Tensor = self.leave(self.norm(self.blocks(tokens)))
        return values


class PatchDecoder(nn.Module):
    """One linear layer from every token (N, L, D) to the values of its patch, put together as (N, *shape)."""

    def __init__(self, width: int, shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.leave = nn.Linear(width, shape[0] * math.prod(patch))

    def forward(self, tokens: Tensor) -> Tensor:
        """The sample."""
        return unpatchify(self.leave(tokens), self.shape, self.patch)


class MapDecoder(nn.Module):
    """From a map (N, C, h, w) or (N, C, t) to samples (N, *shape): doubled in steps, a 3-wide convolution after each.

    Maps are enlarged by linear interpolation, as products with constant matrices: no checkerboards, and gradients that
    are products too.

    Args:
        shape_in: shape of one map; shape: of one sample; width: channels in between.
    """

    def __init__(self, shape_in: tuple[int, ...], shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        convolution: Any = nn.Conv1d if len(shape) == 2 else nn.Conv2d
        doublings = max(1, *(math.ceil(math.log2(to / at)) for at, to in zip(shape_in[1:], shape[1:], strict=True)))
        self.sizes = [tuple(math.ceil(to / 2**left) for to in shape[1:]) for left in reversed(range(doublings))]
        self.enter = convolution(shape_in[0], width, 1)
        self.convolutions = nn.ModuleList(
            ConvNorm(convolution(width, width, 3, padding=1, bias=False), "group") for _ in self.sizes
        )
        self.leave = convolution(width, shape[0], 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """The sample."""
        h = self.enter(features)
        for sizes, convolution in zip(self.sizes, self.convolutions, strict=True):
            h = convolution(enlarge(h, sizes))
        sample: Tensor = self.leave(h)
        return sample


def enlarge(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Linear interpolation of maps (N, C, h, w) or (N, C, t) to `sizes`, edges at edges (align_corners=False)."""
    matrices = []
    for old, new in zip(x.shape[2:], sizes, strict=True):
        # float32 places also where the map is bfloat16, which cannot count beyond 256
        at = (torch.arange(new, dtype=torch.float32, device=x.device) + 0.5) * (old / new) - 0.5
        matrices.append(bilinear(at.unsqueeze(0), old).squeeze(0).to(x.dtype))
    x = x @ matrices[-1].T
    return matrices[0] @ x if len(matrices) == 2 else x


def sample_decoder(encoder: Encoder, objective: str, width: int, channels: int | None = None) -> nn.Module:
    """What maps the encoder's features (N, *feature_shape) to samples (N, channels, ...); None: the input's channels.

    Tokens take one linear layer, as in SimMIM; maps a `MapDecoder` of `width` channels.

    Raises:
        ConfigError: the encoder's features have no place in the sample (token ids, pairs).
    """
    shape = (encoder.input_shape[0] if channels is None else channels, *encoder.input_shape[1:])
    if encoder.tokenized:
        return PatchDecoder(encoder.feature_shape[1], shape, patch_stage(encoder, objective).grid[2::2])
    if len(encoder.feature_shape) != len(encoder.input_shape):
        raise ConfigError(
            f"objective {objective!r}: expected features with the axes of the input {encoder.input_shape}, found "
            f"{encoder.feature_shape}"
        )
    return MapDecoder(encoder.feature_shape, shape, width)


class VectorDecoder(nn.Module):
    """From one vector (N, D) to samples (N, *shape): a linear layer to a small map, then a `MapDecoder`.

    The small map has at most `SMALLEST` steps along each axis.
    """

    SMALLEST = 4

    def __init__(self, size: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        halvings = max(1, *(math.ceil(math.log2(to / self.SMALLEST)) for to in shape[1:]))
        self.shape_in = (width, *(math.ceil(to / 2**halvings) for to in shape[1:]))
        self.enter = nn.Linear(size, math.prod(self.shape_in))
        self.decoder = MapDecoder(self.shape_in, shape, width)

    def forward(self, z: Tensor) -> Tensor:
        """The sample."""
        sample: Tensor = self.decoder(torch.relu(self.enter(z)).reshape(-1, *self.shape_in))
        return sample


class Table(nn.Module):
    """Constant `rows` (K, ...) to pick from, as a buffer: a fixed entry of theta, which is where the network is."""

    rows: Tensor

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.register_buffer("rows", torch.from_numpy(rows.astype(np.float32)))

    def forward(self, index: Tensor) -> Tensor:
        """Rows (N, ...) of whole numbers `index` (N,), any dtype."""
        return self.rows[index.to(torch.int64)]


def classifier(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLUs in between, biases and no norm: what pretexts put on an embedding."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
