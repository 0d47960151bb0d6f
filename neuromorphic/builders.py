"""Weights and delays of the usual layers, as the simulators and Lava take them: (n_post, n_pre) integers.

Convolutions are lowered to the dense matrix that does the same, because that is what the simulator (event-driven over
its nonzero entries) and Lava's Dense both compute exactly; Lava's own Conv ignores exponent, bits and 8-bit clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgessl.errors import ConfigError
from neuromorphic.network import Connection, IntegerNetwork, choose_sign, quantize_weights
from neuromorphic.populations import LIF, Graded, Input, Population, TernaryLIF

LAYERS: dict[str, type[Population]] = {"lif": LIF, "ternary": TernaryLIF, "graded": Graded}


def lower_convolution(
    kernel: np.ndarray, input_shape: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The matrix of a 2-D cross-correlation, as torch.nn.functional.conv2d computes it.

    Args:
        kernel: (C_out, C_in, kH, kW) integers.
        input_shape: (C_in, H, W); neurons are numbered in C order.
        stride: in both directions, >= 1.
        padding: zeros on each side.

    Returns:
        (C_out * H' * W', C_in * H * W) of the kernel's dtype, and (C_out, H', W').

    Raises:
        ConfigError: the shapes do not fit.
    """
    out_channels, in_channels, high, wide = kernel.shape
    channels, height, width = input_shape
    rows, columns = (height + 2 * padding - high) // stride + 1, (width + 2 * padding - wide) // stride + 1
    if channels != in_channels or rows < 1 or columns < 1 or stride < 1 or padding < 0:
        raise ConfigError(
            f"a kernel of {kernel.shape} with stride {stride} and padding {padding} does not fit "
            f"(C, H, W) = {input_shape}; "
            "the kernel is (C_out, C_in, kH, kW)"
        )
    matrix = np.zeros((out_channels, rows, columns, channels, height, width), kernel.dtype)
    for y in range(rows):
        for x in range(columns):
            top, left = y * stride - padding, x * stride - padding
            y0, y1, x0, x1 = max(top, 0), min(top + high, height), max(left, 0), min(left + wide, width)
            matrix[:, y, x, :, y0:y1, x0:x1] = kernel[:, :, y0 - top : y1 - top, x0 - left : x1 - left]
    return matrix.reshape(out_channels * rows * columns, -1), (out_channels, rows, columns)


def lower_pooling(input_shape: tuple[int, int, int], size: int, weight: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Sum pooling over non-overlapping size x size windows, every synapse with `weight`; returns as in convolutions."""
    channels = input_shape[0]
    kernel = np.zeros((channels, channels, size, size), np.int16)
    kernel[np.arange(channels), np.arange(channels)] = weight
    return lower_convolution(kernel, input_shape, stride=size)


def lateral(size: int, weight: int) -> np.ndarray:
    """(size, size) all-to-all weights without self-connections: inhibition where `weight` is negative."""
    matrix = np.full((size, size), weight, np.int16)
    np.fill_diagonal(matrix, 0)
    return matrix


def feed_forward(
    weights: Sequence[np.ndarray],
    layers: Sequence[dict[str, Any]],
    *,
    names: Sequence[str] = (),
    input_name: str = "input",
    payload_bits: int = 0,
    bits: int = 8,
    exponents: Sequence[int] = (),
    delays: Sequence[np.ndarray | int | None] = (),
    recurrent: dict[str, np.ndarray] | None = None,
) -> IntegerNetwork:
    """A chain input -> layer -> layer, with recurrent connections where named.

    Args:
        weights: per layer (n_post, n_pre); quantized here to `bits`.
        layers: per layer the arguments of its population, `kind` ("lif", "ternary", "graded") among them.
        names: of the layers; layer0, layer1 ... otherwise.
        input_name: of the input.
        payload_bits: of the input; 0 is binary. Ternary and graded layers pass their values on.
        bits: of all weights.
        exponents: per layer.
        delays: per layer, None or steps.
        recurrent: layer name -> (n, n) weights onto itself.

    Raises:
        ConfigError: lengths differ, or a number is out of range.
    """
    count = len(weights)
    names = list(names) or [f"layer{k}" for k in range(count)]
    exponents, delays = list(exponents) or [0] * count, list(delays) or [None] * count
    if not count or not len(layers) == len(names) == len(exponents) == len(delays) == count:
        raise ConfigError(
            f"give as many layers, names, exponents and delays as weights ({count}), "
            f"found {len(layers)}, {len(names)}, {len(exponents)}, {len(delays)}"
        )
    if unknown := sorted(set(recurrent or {}) - set(names)):
        raise ConfigError(f"recurrent weights for {unknown[0]!r}, which is not one of {', '.join(names)}")
    populations: list[Population] = []
    connections: list[Connection] = []
    source, payload = input_name, payload_bits
    for k, name in enumerate(names):
        # of the weights as given: truncated ones may have lost a sign, and with it the mode that truncated them
        sign = choose_sign(np.asarray(weights[k]))
        matrix = quantize_weights(weights[k], bits, sign)
        given = dict(layers[k])
        kind = given.pop("kind", "lif")
        if kind not in LAYERS:
            raise ConfigError(f"layer {name!r}: kind must be one of {', '.join(LAYERS)}, found {kind!r}")
        populations.append(LAYERS[kind](name, len(matrix), **given))
        link = f"{source}_{name}"
        delay = delays[k]
        connections.append(
            Connection(link, source, name, matrix, exponents[k], bits, sign, payload_bits=payload, delays=delay)
        )
        payload = {"lif": 0, "ternary": 1, "graded": 24}[kind]
        if recurrent and name in recurrent:
            sign = choose_sign(np.asarray(recurrent[name]))
            back = quantize_weights(recurrent[name], bits, sign)
            link = f"{name}_{name}"
            connections.append(Connection(link, name, name, back, exponents[k], bits, sign, payload_bits=payload))
        source = name
    first = np.asarray(weights[0]).shape[1]
    return IntegerNetwork([Input(input_name, first, payload_bits)], populations, connections)
