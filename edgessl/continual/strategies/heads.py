"""The predictor that several strategies train: it maps today's features to those of the past."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgessl.continual.strategies.base import PROJECTOR
from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Network, centred_mlp, mlp

PREDICTOR = "past_predictor"  # its name among the parts
_LAST = f"{PREDICTOR}.move.3.weight"


class Predictor(nn.Module):
    """`z + W2 relu(norm(W1 z))`, the identity at first, since W2 starts at zero.

    Right after consolidation the past is the present: a predictor that starts anywhere else (the papers' starts at
    random) would first pull the features about, which a device that takes few steps has no time for.

    Args:
        size: numbers in a row.
        hidden: width of the hidden layer.
        norm: its kind of norm, "layer" or "batch".
        centring: whether the loss centres what comes out.
    """

    def __init__(self, size: int, hidden: int, norm: str, centring: bool = False) -> None:
        super().__init__()
        self.move = (centred_mlp if centring else mlp)((size, hidden, size), norm)
        nn.init.zeros_(self.move.get_parameter("3.weight"))

    def forward(self, z: Tensor) -> Tensor:
        """Maps (N, size) to (N, size)."""
        out: Tensor = z + self.move(z)
        return out


def forgotten(theta: Tensor, layout: ParameterLayout) -> Tensor:
    """`theta` `(size,)` with the predictor as the identity again."""
    pieces = layout.unflatten(theta)
    return layout.flatten({**pieces, _LAST: torch.zeros_like(pieces[_LAST])})


@torch.no_grad()
def projected_size(encoder: Encoder, heads: Mapping[str, nn.Module]) -> int:
    """Numbers in what the objective's projector makes of an embedding; in the embedding itself without projector."""
    if PROJECTOR not in heads:
        return encoder.embedding_dim
    with evaluation_mode(heads[PROJECTOR]):
        return int(heads[PROJECTOR](torch.zeros(1, encoder.embedding_dim)).shape[1])


def project(network: Network, embedding: Tensor, projects: bool) -> Tensor:
    """`embedding` `(M, D)` through the objective's projector where it has one (`projects`)."""
    return network(PROJECTOR, embedding) if projects else embedding


@torch.no_grad()
def projected_by(network: Network, theta: Tensor, x: Tensor, projects: bool) -> Tensor:
    """What `project` gives of samples `x` `(M, *shape)` by other weights `theta` `(size,)`, in evaluation mode."""
    other = network.frozen(theta)
    return project(other, other("encoder", x), projects)
