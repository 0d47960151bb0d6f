"""Streams: the order in which a device meets its data, and described, seeded drifts of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def tilt_in_low_light(images: Array, degrees: float = 35.0, noise: float = 0.3, seed: int = 0) -> Array:
    """The camera was knocked and the light went: every image turned by `degrees`, then Gaussian sensor noise.

    Args:
        images: `(N, C, H, W)` float32 in [0, 1].
        degrees: counter-clockwise turn about the centre, bilinear, what comes in from outside is 0.
        noise: standard deviation of the noise, in units of full scale; the sum is clipped to [0, 1].
        seed: of the noise; images keep their order.

    Returns:
        `(N, C, H, W)` float32 in [0, 1].
    """
    from scipy import ndimage

    turned = ndimage.rotate(images, degrees, axes=(3, 2), reshape=False, order=1)
    rng = np.random.default_rng([seed, 71])
    return (turned + noise * rng.standard_normal(turned.shape)).clip(0, 1).astype(np.float32)


def skewed_shards(labels: Array, clients: int, concentration: float = 0.3, seed: int = 0) -> list[Array]:
    """Split samples among clients so that each sees mostly some classes (Hsu et al. 2019, arXiv 1909.06335).

    Args:
        labels: `(N,)` classes, used only to make the split.
        clients: how many shards.
        concentration: of the Dirichlet distribution of each class over the clients; small is skewed.
        seed: of the split.

    Returns:
        One index array per client, shuffled; together a partition of `range(N)` into shards of almost equal size.
    """
    rng = np.random.default_rng([seed, 72])
    room = np.full(clients, -(-len(labels) // clients))
    shards: list[list[int]] = [[] for _ in range(clients)]
    shares = rng.dirichlet(np.full(clients, concentration), size=int(labels.max()) + 1)
    for index in rng.permutation(len(labels)):
        share = shares[labels[index]] * (room > 0)
        odds = share / share.sum() if share.sum() > 0 else (room > 0) / (room > 0).sum()
        client = int(rng.choice(clients, p=odds))
        shards[client].append(int(index))
        room[client] -= 1
    return [np.array(shard) for shard in shards]


def mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    """`{"mean", "std", "seeds"}` of one figure over seeds; the standard deviation is the sample's (n - 1)."""
    array = np.asarray(values, np.float64)
    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "std": spread, "seeds": [float(v) for v in array]}
