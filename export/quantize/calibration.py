"""Ranges of activations from unlabelled samples: all of it, or what is left when rare values are clipped.

minmax: the smallest and the largest value seen. percentile: 0.01 % of the values are clipped. entropy: the clipping
whose levels lose least information (Kullback-Leibler, Migacz 2017, GTC "8-bit inference with TensorRT"). mse: the
clipping with the least mean squared rounding and clipping error (Banner et al. 2019, https://arxiv.org/abs/1810.05723).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgessl.device.runtime import SessionProfile
from edgessl.errors import ConfigError, ExportError
from export.quantize.floating import FloatGraph

Array = np.ndarray[Any, np.dtype[Any]]
Range = tuple[float, float]
BINS = 2048
BATCH = 32
CLIPPED = 1e-4  # share of values beyond the percentile
LEVELS = 255
CANDIDATES = 96  # clippings that entropy and mse try
LEAST_SAMPLES = 16


def calibrate(graph: FloatGraph, tensors: Sequence[str], samples: Array, method: str = "minmax") -> dict[str, Range]:
    """The range (low, high) of each of `tensors` on `samples` (N, *shape) float32, by a method of `METHODS`.

    Raises:
        ConfigError: unknown method, or fewer than 16 samples.
        ExportError: an activation is infinite or NaN; the message names the operator and the line of the model.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown calibration {method!r}; choose one of {', '.join(METHODS)}")
    if len(samples) < LEAST_SAMPLES:
        raise ConfigError(
            f"int8 calibration: {len(samples)} samples; give at least {LEAST_SAMPLES}, better some hundreds"
        )
    names = [name for name in tensors if name != "x"]
    inner = [name for name in names if name != graph.output]
    session = SessionProfile().session(graph.model(taps=tuple(inner)).SerializeToString(), "float graph")

    def each() -> Any:
        for i in range(0, len(samples), BATCH):
            part = samples[i : i + BATCH]
            values = dict(zip(names, session.run(names, {"x": part}), strict=True)) if names else {}
            yield {**values, "x": part} if "x" in tensors else values

    ranges: dict[str, Range] = {}
    for values in each():
        for name, value in values.items():
            low, high = ranges.get(name, (0.0, 0.0))  # 0 is always a level
            least, most = float(value.min()), float(value.max())
            if not np.isfinite([least, most]).all():
                raise ExportError(
                    f"{graph.named(name)}: gives infinite or NaN values on the calibration samples: no range holds them"
                )
            ranges[name] = min(low, least), max(high, most)
    if method == "minmax":
        return ranges
    histograms = {name: np.zeros(BINS) for name in ranges}
    for values in each():
        for name, value in values.items():
            histograms[name] += histogram(value, ranges[name])
    return {name: METHODS[method](histograms[name], ranges[name]) for name in ranges}


def histogram(values: Array, span: Range) -> Array:
    """Counts (BINS,) of `values` in equal bins over `span`."""
    low, high = span
    if high <= low:
        return np.bincount([0], [values.size], BINS)
    place = ((values.ravel() - low) * (BINS / (high - low))).astype(np.int64).clip(0, BINS - 1)
    return np.bincount(place, minlength=BINS).astype(np.float64)


def percentile(counts: Array, span: Range) -> Range:
    """The range beyond which `CLIPPED` of the values lie, half on each side that has any; it holds 0."""
    edges = np.linspace(*span, BINS + 1)
    share = counts.cumsum() / max(counts.sum(), 1)
    tail = CLIPPED / ((span[0] < 0) + (span[1] > 0) or 1)
    low = edges[int(np.searchsorted(share, tail, "right"))] if span[0] < 0 else span[0]
    high = edges[int(np.searchsorted(share, 1 - tail)) + 1] if span[1] > 0 else span[1]
    return min(float(low), 0.0), max(float(high), 0.0)


def mean_squared(counts: Array, span: Range) -> Range:
    """The clipping of `span` whose levels are nearest to the values in the mean of squares."""
    centers = _centers(span)

    def error(low: float, high: float) -> float:
        scale = (high - low) / LEVELS
        zero = np.rint(-low / scale)
        levels = (np.rint(centers / scale) + zero).clip(0, LEVELS)
        return float((counts * np.square((levels - zero) * scale - centers)).sum())

    return _least(error, span)


def entropy(counts: Array, span: Range) -> Range:
    """The clipping of `span` whose levels keep most of the values' distribution.

    P is the histogram with the clipped values in its outermost bins, Q the histogram within the range with the bins of
    one level sharing that level's mass; the least divergence KL(P || Q) wins.
    """
    edges = np.linspace(*span, BINS + 1)
    counts = counts.copy()
    zero = int(np.searchsorted(edges, 0.0, "right").clip(1, BINS)) - 1
    counts[zero] = counts[zero + 1 if zero + 1 < BINS else zero - 1]  # a ReLU's zeros cost no level anything: 0 is one

    def divergence(low: float, high: float) -> float:
        first = int(np.searchsorted(edges, low, "right")) - 1
        last = max(int(np.searchsorted(edges, high, "left")), first + 1)
        inside = counts[first:last]
        p = inside.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last:].sum()
        level = np.minimum(np.arange(last - first) * (LEVELS + 1) // max(last - first, 1), LEVELS)
        mass, filled = np.bincount(level, inside), np.bincount(level, inside > 0)
        q = np.where(inside > 0, mass[level] / np.maximum(filled[level], 1), 0.0)
        p, q = _smoothed(p), _smoothed(q)
        return float((p * np.log(p / q)).sum())

    return _least(divergence, span)


def _smoothed(counts: Array) -> Array:
    """A distribution without zeros, so that a bin that only the clipped values fill costs much, but not infinitely."""
    kept = counts + 1e-4 * max(counts.sum(), 1) / counts.size
    smoothed: Array = kept / kept.sum()
    return smoothed


def _least(cost: Callable[[float, float], float], span: Range) -> Range:
    """The clipping at +-t of `span` with the least cost; of equal ones the widest."""
    most = max(-span[0], span[1])
    if most <= 0:
        return span
    shares = np.linspace(1, 1 / CANDIDATES, CANDIDATES)
    ranges = [(max(span[0], -share * most), min(span[1], share * most)) for share in shares]
    costs = [cost(*candidate) for candidate in ranges]
    return ranges[int(np.argmin(costs))]


def _centers(span: Range) -> Array:
    edges = np.linspace(*span, BINS + 1)
    centers: Array = (edges[:-1] + edges[1:]) / 2
    return centers


METHODS: dict[str, Callable[[Array, Range], Range]] = {
    "minmax": lambda counts, span: span,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mean_squared,
}
