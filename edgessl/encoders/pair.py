"""Two encoders side by side for pairs of samples: phone and watch, picture and sound.

A pair is one flat vector, the first sample's values and then the second's, and its embedding is the two embeddings
after each other. So a bundle, a learner and an objective see one encoder; cross-modal objectives know where to cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder, Stages
from edgessl.errors import ConfigError


class Towers(nn.Module):
    """`first` and `second` on their parts of (N, n): (N, first.embedding_dim + second.embedding_dim).

    The parts arrive normalised, so neither encoder normalises again.
    """

    def __init__(self, first: Encoder, second: Encoder) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.sizes = (first.embedding_dim, second.embedding_dim)
        self._values = (math.prod(first.input_shape), math.prod(second.input_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Both embeddings, the first one's columns first."""
        a, b = x.split(self._values, dim=1)
        h_a = self.first(a.reshape(-1, *self.first.input_shape))
        h_b = self.second(b.reshape(-1, *self.second.input_shape))
        return torch.cat([h_a, h_b], dim=1)


def pair(
    input_shape: tuple[int],
    *,
    first: str = "cnn1d",
    first_shape: Sequence[int] = (),
    first_options: Mapping[str, Any] | None = None,
    second: str = "cnn1d",
    second_shape: Sequence[int] = (),
    second_options: Mapping[str, Any] | None = None,
) -> Stages:
    """Stages towers, pool (which passes on) for samples (n,); embedding: both towers' embeddings, one after the other.

    `first` and `second` name encoders of the registry, the shapes are those of the two samples of a pair.
    """
    shapes = [_shape("first", first_shape), _shape("second", second_shape)]
    values = [math.prod(shape) for shape in shapes]
    if (sum(values),) != tuple(input_shape):
        raise ConfigError(
            f"encoder pair: first_shape {shapes[0]} and second_shape {shapes[1]} have {values[0]} + {values[1]} "
            f"values; a sample has {input_shape[0]}"
        )
    towers = Towers(_tower(first, shapes[0], first_options or {}), _tower(second, shapes[1], second_options or {}))
    return {"towers": towers, "pool": nn.Identity()}


def _tower(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> Encoder:
    from edgessl.encoders import build_stages  # the registry holds this file too

    return Encoder(build_stages(name, shape, options), shape)


def _shape(side: str, shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not shape or any(type(size) is not int or size < 1 for size in shape):
        raise ConfigError(
            f"encoder pair: option {side}_shape is the shape of its samples, such as [6, 128]; found {shape!r}"
        )
    return tuple(shape)
