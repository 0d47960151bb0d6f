"""Jigsaw puzzles: in which order were the tiles put back? (Noroozi & Favaro 2016, arXiv 1603.09246).

The tiles stay in one image and the whole of it is encoded (Carlucci et al. 2019, arXiv 1903.06864), rather than each
tile by itself: the encoder keeps the size and the kind of input it will serve.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.encoders import Encoder
from edgessl.encoders.tokens import one_hot
from edgessl.errors import ConfigError
from edgessl.objectives.base import Batch, Gather, Loss, Network, Objective, Slots
from edgessl.objectives.decoders import Table, classifier
from edgessl.objectives.functional.sequence import token_cross_entropy

Orders = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Jigsaw(Objective):
    """Images and spectrograms; no slots.

    Every sample is a problem of its own: any batch will do, and 2 is the smallest whose embeddings have a spread to
    watch; with fewer samples than orders the gradient is noisy. It takes one augmented view, against shortcuts through
    borders that continue.

    Attributes:
        grid: tiles along each axis, 2 or 3; pixels left over at the far ends stay where they are.
        orders: how many orders of 3 x 3 tiles are told apart, far from each other (`distant_orders`); 2 x 2 tiles have
            all their 24.
        hidden: width of the classifier.
    """

    grid: int = 2
    orders: int = 30
    hidden: int = 128
    name: ClassVar[str] = "jigsaw"
    family: ClassVar[str] = "pretext"
    hyper: ClassVar[dict[str, float]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("image", "spectrogram")

    def __post_init__(self) -> None:
        if self.grid not in (2, 3):
            raise ConfigError(f"objective 'jigsaw': option 'grid' takes 2 or 3, found {self.grid}")
        if not 2 <= self.orders <= 1000:
            raise ConfigError(f"objective 'jigsaw': option 'orders' takes 2 to 1000, found {self.orders}")

    def crops(self) -> tuple[int, int]:
        """One augmented view."""
        return (1, 0)

    def noise_width(self, shape: tuple[int, ...]) -> int:
        """One number: which order."""
        return 1

    @property
    def _count(self) -> int:
        return 24 if self.grid == 2 else self.orders

    def heads(self, encoder: Encoder, norm: str) -> dict[str, nn.Module]:
        """The orders and a classifier of them; ConfigError for samples without two axes of `grid` pixels or more."""
        shape = encoder.input_shape
        if len(shape) != 3 or min(shape[1:]) < self.grid:
            raise ConfigError(f"objective 'jigsaw': expected (C, H, W) of {self.grid} pixels or more, found {shape}")
        orders = distant_orders(self.grid**2, self._count)
        return {"orders": Table(orders), "classifier": classifier((encoder.embedding_dim, self.hidden, self._count))}

    def loss(self, network: Network, slots: Slots, batch: Batch, hyper: Slots, gather: Gather) -> Loss:
        """Cross-entropy over the orders."""
        (x,) = batch.views
        labels = torch.floor(batch.noise[:, 0] * self._count).clamp(max=self._count - 1)
        order = network("orders", labels).round()  # an average over a federation may have left 2.9999998
        h = network("encoder", shuffle_tiles(x, order, self.grid))
        errors = token_cross_entropy(network("classifier", h), labels)
        return Loss(gather(errors.unsqueeze(1)).mean(), h, {})


def shuffle_tiles(x: Tensor, order: Tensor, grid: int) -> Tensor:
    """Tile i of the result is tile `order[:, i]` of `x`.

    Args:
        x: (N, C, H, W); order: (N, grid^2) whole numbers in the dtype of x, tiles counted in row order.
    """
    n, channels, height, width = x.shape
    rows, columns = height // grid, width // grid
    inner = x[:, :, : rows * grid, : columns * grid].reshape(n, channels, grid, rows, grid, columns)
    tiles = inner.permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, -1)
    moved = one_hot(order, grid * grid) @ tiles
    inner = moved.reshape(n, grid, grid, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    inner = inner.reshape(n, channels, rows * grid, columns * grid)
    inner = torch.cat([inner, x[:, :, : rows * grid, columns * grid :]], dim=3)
    return torch.cat([inner, x[:, :, rows * grid :]], dim=2)


def distant_orders(tiles: int, count: int) -> Orders:
    """`count` orders of `tiles` tiles `(count, tiles)`, each as far from the earlier ones as possible.

    Starts with the identity and adds the order whose nearest chosen one is furthest in Hamming distance, on a tie the
    one furthest on average, then the first in lexicographic order. Noroozi & Favaro 2016, algorithm 1, go by the
    average alone, which leaves pairs that differ in two tiles. With count = tiles! these are all orders.
    """
    everything = np.array(list(itertools.permutations(range(tiles))), dtype=np.int8)
    nearest, total = np.full(len(everything), tiles), np.zeros(len(everything), int)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(np.argmax(nearest * (tiles * count + 1) + total)))
        distance = (everything != everything[chosen[-1]]).sum(axis=1)
        nearest, total = np.minimum(nearest, distance), total + distance
    return everything[chosen].astype(np.int64)
