"""Cross-layer equalisation (Nagel et al. 2019, https://arxiv.org/abs/1906.04721), with figures from the graph alone.

ReLU(s x) = s ReLU(x) for s > 0, so what one convolution's channel is divided by, the next one's weights can be
multiplied with: both then have ranges of the same size, and one scale per tensor fits all channels of the activation
between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from export.quantize.floating import FloatGraph, attribute
from export.quantize.layers import Layer, activated, layers

ROUNDS = 20  # pairs overlap in a chain; the ranges settle after a few


def equalize(graph: FloatGraph) -> FloatGraph:
    """A copy that computes the same to rounding, neighbouring convolutions with their channels' ranges equalised."""
    made = graph.copy()
    pairs = list(_pairs(made))
    for _ in range(ROUNDS if pairs else 0):
        for first, second in pairs:
            _equalize_pair(made, first, second)
    made.origins = {}  # constants are no longer theta's
    return made


def _pairs(graph: FloatGraph) -> Iterator[tuple[Layer, Layer]]:
    """Convolutions whose output, rectified, goes into one other convolution and nowhere else."""
    convolutions = {layer.input: layer for layer in layers(graph) if layer.node.op_type == "Conv"}
    for first in convolutions.values():
        between = activated(graph, first.output)
        if between in convolutions and between != graph.output and len(graph.consumers(between)) == 1:
            yield first, convolutions[between]


def _equalize_pair(graph: FloatGraph, first: Layer, second: Layer) -> None:
    w1, w2 = graph.constants[first.weight].astype(np.float64), graph.constants[second.weight].astype(np.float64)
    r1 = np.abs(w1).max(tuple(range(1, w1.ndim)))
    groups = attribute(second.node, "group", 1)
    # the channels that weights (O, I / groups, ...) read, group by group
    grouped = w2.reshape(groups, -1, *w2.shape[1:])
    r2 = np.abs(grouped).max((1, *range(3, grouped.ndim))).reshape(-1)
    usable = (r1 > 0) & (r2 > 0)
    factor = np.where(usable, np.sqrt(np.where(usable, r1, 1) / np.where(usable, r2, 1)), 1.0)
    graph.constants[first.weight] = (w1 / factor.reshape(-1, *[1] * (w1.ndim - 1))).astype(np.float32)
    if first.bias:
        graph.constants[first.bias] = (graph.constants[first.bias] / factor).astype(np.float32)
    scaled = grouped * factor.reshape(groups, 1, -1, *[1] * (w2.ndim - 2))
    graph.constants[second.weight] = scaled.reshape(w2.shape).astype(np.float32)
