"""Bias correction (Nagel et al. 2019, https://arxiv.org/abs/1906.04721): what rounding shifts on average goes back.

Layer by layer, so that each sees the already corrected layers before it; the means come from calibration samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.quantize.calibration import Array
from export.quantize.floating import FloatGraph, run_graph
from export.quantize.layers import Layer, layers
from export.quantize.writing import RAW, Written

SAMPLES = 128  # at most; a mean over pixels and samples needs no more


def correct_biases(graph: FloatGraph, write: Callable[[FloatGraph], Written], samples: Array) -> FloatGraph:
    """A copy whose biases make the mean of each output channel of `write(copy)` that of the float graph.

    Layers without a place for a bias (MatMul) and those left in float stay as they are.
    """
    made, some = graph.copy(), samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]
    chosen = [layer for layer in layers(made) if layer.node.op_type != "MatMul"]
    wanted = run_graph(made, some, tuple(layer.output for layer in chosen if layer.output != made.output))
    for layer in chosen:
        written = write(made)
        if layer.name not in {each.name for each in written.layers}:
            continue
        found = _given(written.graph, layer, some)
        shift = _mean(wanted[layer.output]) - _mean(found)
        _add_bias(made, layer, shift.astype(np.float32))
    return made


def _given(graph: FloatGraph, layer: Layer, samples: Array) -> Array:
    raw = f"{layer.output}{RAW}"
    tap = raw if graph.producer(raw) is not None else layer.output
    return run_graph(graph, samples, () if tap == graph.output else (tap,))[tap]


def _mean(values: Array) -> Array:
    """Mean of each channel (C,) of (N, C, ...)."""
    mean: Array = values.mean((0, *range(2, values.ndim)), dtype=np.float64)
    return mean


def _add_bias(graph: FloatGraph, layer: Layer, shift: Array) -> None:
    name = f"{layer.name}.corrected"
    before = graph.constants[layer.node.input[2]] if len(layer.node.input) > 2 else 0.0
    graph.constants[name] = (before + shift).astype(np.float32)
    layer.node.input[:] = [*layer.node.input[:2], name]
