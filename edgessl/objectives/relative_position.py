"""Relative patch position: where does this patch lie, seen from that one? (Doersch et al. 2015, arXiv 1505.05192)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.encoders.tokens import one_hot
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import classifier
from edgessl.objectives.functional.sequence import token_cross_entropy
from edgessl.views.sampling import bilinear, indices, separable

GRID = 3
SHARE = 0.75  # of a cell that its patch covers; the rest is gap and jitter, so that lines cannot be continued
SMALLEST = 9  # pixels: cells of 3
NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))  # (row, column), the middle being (1, 1)


@dataclass(frozen=True)
class RelativePosition(Objective):
    """Images and spectrograms; no slots.

    The middle cell of a 3 x 3 grid and one of its 8 neighbours, each a patch somewhere in its cell and enlarged to the
    size of a sample, are encoded; from both embeddings, side by side, the classifier tells which neighbour it was.
    Every sample is a problem of its own: any batch will do, and 2 is the smallest whose embeddings have a spread to
    watch; below 16 the gradient is noisy. It takes one augmented view, against low-level cues.
    """

    hidden: int = 128
    name: ClassVar[str] = "relative_position"
    family: ClassVar[str] = "pretext"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram")

    def crops(self) -> tuple[int, int]:
        """One augmented view."""
        return (1, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """Which neighbour, then row and column of the two patches in their cells."""
        return 5

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """A classifier of the 8 neighbours; ConfigError for samples without two axes of 9 pixels or more."""
        shape = encoder.input_shape
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise ConfigError(
                f"objective 'relative_position': expected (C, H, W) of {SMALLEST} pixels or more, found {shape}"
            )
        return {"classifier": classifier((2 * encoder.embedding_dim, self.hidden, len(NEIGHBOURS)))}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy over the neighbours. The embeddings watched are those of the middle patches."""
        (x,) = batch.views
        labels = torch.floor(batch.noise[:, 0] * len(NEIGHBOURS)).clamp(max=len(NEIGHBOURS) - 1)
        cells = one_hot(labels, len(NEIGHBOURS)) @ torch.tensor(NEIGHBOURS, dtype=x.dtype, device=x.device)
        middle = enlarged_patch(x, torch.ones_like(cells), batch.noise[:, 1:3])
        other = enlarged_patch(x, cells, batch.noise[:, 3:5])
        h = network("encoder", torch.cat([middle, other]))
        h_middle, h_other = h.chunk(2)
        errors = token_cross_entropy(network("classifier", torch.cat([h_middle, h_other], dim=1)), labels)
        return Loss(gather(errors.unsqueeze(1)).mean(), h_middle, {})


def enlarged_patch(x: Tensor, cell: Tensor, jitter: Tensor) -> Tensor:
    """A patch of `x` (N, C, H, W), linearly enlarged to its size; nothing from outside the patch leaks in.

    Args:
        cell: (N, 2), row and column of the grid's cell, in the dtype of x.
        jitter: (N, 2) in [0, 1), where the patch lies in its cell.
    """
    matrices = []
    for axis, size in enumerate(x.shape[2:]):
        side = size / GRID
        length = SHARE * side
        start = cell[:, axis : axis + 1] * side + jitter[:, axis : axis + 1] * (side - length)
        inside = ((indices(size, x) + 0.5) * (length / size) - 0.5).clamp(0.0, length - 1)
        matrices.append(bilinear(start + inside, size))
    return separable(x, *matrices)
