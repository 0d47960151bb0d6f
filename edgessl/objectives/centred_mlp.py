"""The head for losses on embeddings that are centred over the batch."""

from __future__ import annotations

from torch import nn

from edgessl.objectives.base import mlp


def centred_mlp(sizes: tuple[int, ...], norm: str) -> nn.Sequential:
    """`mlp` whose last layer norm has no bias either: where a unit is on for every sample, its bias shifts all outputs
    alike, centring takes that away, and Adam would turn what rounding leaves of the gradient into steps."""
    layers = mlp(sizes, norm)
    if norm == "layer":
        layers[-3] = nn.LayerNorm(sizes[-2], bias=False)  # ... norm, ReLU, linear
    return layers
