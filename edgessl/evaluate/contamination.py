"""Contamination: test samples that training saw, exactly or nearly.

A near-duplicate is found where two samples are as close as a sample and a slightly changed copy of itself. The
threshold is therefore calibrated on copies (`slight_copies`), and how often it is wrong is measured on pairs that
cannot be duplicates: test samples whose nearest training sample of ANOTHER class is within it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgessl.errors import InputError
from edgessl.evaluate.neighbours import unit

Array = np.ndarray[Any, np.dtype[Any]]
CAUGHT = 0.95  # share of slight copies that the threshold catches
COPY_NOISE = 0.02  # of a channel's standard deviation
EXAMPLES = 10  # index pairs reported
BLOCK = 512
HASH_SIDE, HASH_KEPT = 32, 8


def sample_hashes(samples: Array) -> list[bytes]:
    """SHA-256 of each sample's float32 values."""
    rows = np.ascontiguousarray(samples, "<f4")
    return [hashlib.sha256(row.tobytes()).digest() for row in rows]


def exact_duplicates(train: Sequence[bytes], test: Sequence[bytes]) -> dict[str, Any]:
    """Test samples whose bytes are also in train: the number, and pairs (train index, test index)."""
    place = {digest: i for i, digest in reversed(list(enumerate(train)))}
    pairs = [(place[digest], j) for j, digest in enumerate(test) if digest in place]
    return {"count": len(pairs), "share": len(pairs) / max(1, len(test)), "pairs": pairs[:EXAMPLES]}


def slight_copies(samples: Array, seed: int = 0) -> Array:
    """Each sample with Gaussian noise of COPY_NOISE of its channel's standard deviation, as re-encoding leaves."""
    axes = (0, *range(2, samples.ndim))
    scale = samples.std(axis=axes, keepdims=True)
    noise = np.random.default_rng(seed).standard_normal(samples.shape)
    return (samples + COPY_NOISE * scale * noise).astype(np.float32)


def perceptual_hash(images: Array) -> Array:
    """64 signs `(N, 64)`, +-1 float32, of images `(N, C, H, W)`: the pHash of Zauner 2010, section 3.1.1.

    The grey image at 32 x 32, its cosine transform, the 8 x 8 lowest frequencies, each above or below their median
    (without the constant one). Hamming distance = (64 - dot) / 2.
    """
    from scipy.fft import dctn

    if images.ndim != 4:
        raise InputError(f"perceptual hash: expected images (N, C, H, W), found {images.shape}")
    grey = images.mean(axis=1, dtype=np.float64)
    rows, columns = (_area(side) for side in grey.shape[1:])
    small = rows @ grey @ columns.T
    low = dctn(small, axes=(1, 2), norm="ortho")[:, :HASH_KEPT, :HASH_KEPT].reshape(len(images), -1)
    middle = np.median(low[:, 1:], axis=1, keepdims=True)
    return np.where(low > middle, np.float32(1), np.float32(-1))


def near_duplicates(
    train: Array, train_labels: Array, test: Array, test_labels: Array, copies: Array
) -> dict[str, Any]:
    """Test rows nearly equal to a training row, by cosine of embeddings (or of `perceptual_hash` signs).

    Args:
        train, test: rows `(M, D)`, `(N, D)` with their labels; copies: rows of `slight_copies` of the test samples
            `(N, D)`, from which comes the threshold: the cosine that CAUGHT of them reach with their original.

    Returns:
        threshold (cosine), count and share of test rows with a training row above it, up to EXAMPLES pairs (train
        index, test index), the closest first, and `false_alarms`: the share of test rows whose nearest training row
        of another class is above it too. Where that is not small, the count means little.
    """
    own = (unit(test) * unit(copies)).sum(1)
    threshold = float(np.quantile(own, 1 - CAUGHT))
    a, b = unit(test).astype(np.float32), unit(train).astype(np.float32)
    best, place, other = np.empty(len(a)), np.empty(len(a), np.int64), np.empty(len(a))
    for i in range(0, len(a), BLOCK):
        similar = a[i : i + BLOCK] @ b.T
        place[i : i + BLOCK] = similar.argmax(1)
        best[i : i + BLOCK] = similar.max(1)
        similar[test_labels[i : i + BLOCK, None] == train_labels[None]] = -np.inf
        other[i : i + BLOCK] = similar.max(1)
    near = best >= threshold - 1e-6  # float32 cosines of equal rows
    order = [int(j) for j in np.argsort(-best, kind="stable") if near[j]][:EXAMPLES]
    return {
        "threshold": threshold,
        "count": int(near.sum()),
        "share": float(near.mean()),
        "pairs": [(int(place[j]), j) for j in order],
        "false_alarms": float((other >= threshold - 1e-6).mean()),
    }


def contamination(
    train: Array,
    train_labels: Array,
    test: Array,
    test_labels: Array,
    embed: Callable[[Array], Array],
    images: bool,
    seed: int = 0,
) -> dict[str, Any]:
    """Exact and near duplicates between samples `train` and `test`, by hash, embedding and, for images, pHash."""
    copies = slight_copies(test, seed)
    found = {
        "exact": exact_duplicates(sample_hashes(train), sample_hashes(test)),
        "embedding": near_duplicates(embed(train), train_labels, embed(test), test_labels, embed(copies)),
    }
    if images:
        rows = [perceptual_hash(part) for part in (train, test, copies)]
        found["perceptual_hash"] = near_duplicates(rows[0], train_labels, rows[1], test_labels, rows[2])
    return found


def _area(side: int) -> Array:
    """(HASH_SIDE, side): averages pixels by area, or repeats them where there are fewer."""
    edges = np.linspace(0, side, HASH_SIDE + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)
    cover = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    weights: Array = cover / cover.sum(1, keepdims=True)
    return weights
