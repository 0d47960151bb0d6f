"""How well quantized embeddings stand for float ones: cosine similarity, and who is whose neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from edgessl.encoders.base import Encoder
from edgessl.errors import ParityError
from edgessl.evaluate import embed
from export.parity import graph_session

Array = np.ndarray[Any, np.dtype[Any]]
INT8_MIN_COSINE = 0.95  # mean cosine similarity of int8 and float embeddings


def int8_agreement(encoder: Encoder, model: onnx.ModelProto, samples: Array, neighbors: int = 10) -> dict[str, float]:
    """How well int8 embeddings of `samples` `(N, *shape)` stand for the float ones.

    Returns:
        Mean and minimum cosine similarity, and the mean overlap of each sample's `neighbors` nearest neighbours.

    Raises:
        ParityError: the mean cosine similarity is below `INT8_MIN_COSINE`.
    """
    (found,) = graph_session(model).run(None, {"x": samples})
    return agreement(found, embed(encoder, samples), "int8 encoder", neighbors)


def agreement(found: Array, expected: Array, what: str, neighbors: int = 10) -> dict[str, float]:
    """How well int8 representations `found` `(N, ...)` stand for the float ones `expected`; see `int8_agreement`.

    Raises:
        ParityError: the mean cosine similarity is below `INT8_MIN_COSINE`; it names `what`.
    """
    figures = compare(found, expected, neighbors)
    if not figures["cosine_mean"] >= INT8_MIN_COSINE:
        raise ParityError(
            f"{what}: mean cosine similarity to the float one is {figures['cosine_mean']:.3f}; at least "
            f"{INT8_MIN_COSINE} is required. Calibrate with more, or more typical, samples, or export without int8"
        )
    return figures


def compare(found: Array, expected: Array, neighbors: int = 10) -> dict[str, float]:
    """Mean and least cosine similarity of representations `found`, `expected` (N, ...), and the mean overlap of their
    nearest neighbours."""
    a, b = unit_rows(expected.reshape(len(expected), -1)), unit_rows(found.reshape(len(found), -1))
    cosine = (a * b).sum(1)
    k = min(neighbors, len(a) - 1)
    near_a, near_b = (np.argsort(-(z @ z.T) + 2 * np.eye(len(z)), axis=1)[:, :k] for z in (a, b))
    overlap = np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(near_a, near_b, strict=True)])
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "neighbor_overlap": float(overlap),
    }


def unit_rows(z: Array) -> Array:
    """Rows of `z` `(N, D)` at unit L2 length."""
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
