"""New weights and ranges as the constants of an int8 graph, written over those that it has."""

from collections.abc import Mapping

import numpy as np

from edgessl.device.bundle.onnxwire import initializers
from edgessl.device.requantize.arithmetic import (
    Array,
    Float,
    affine,
    folded,
    quantize_bias,
    quantize_weight,
    scales_for_bias,
    weight_limit,
    weight_scales,
)
from edgessl.device.requantize.plan import PLAN_FILE, Plan
from edgessl.errors import BundleError


def requantized(model: bytes, plan: Plan, theta: Float, low: Float, high: Float) -> bytes:
    """The int8 graph `model` with the constants that `theta` (P,) and the ranges `low`, `high` (T,) give.

    Raises:
        BundleError: the plan names a constant that is not in the graph, or of another size.
    """
    copy = bytearray(model)
    places = initializers(copy)
    try:
        made = constants(plan, theta, low, high)
    except ValueError as error:  # shapes that do not fit together
        raise BundleError(f"{PLAN_FILE}: {error}") from None
    for name, value in made.items():
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        if name not in places or len(places[name]) != len(data):
            found = f"{len(places[name])} bytes" if name in places else "nothing"
            raise BundleError(f"{PLAN_FILE}: constant {name!r}: expected {len(data)} bytes in the graph, found {found}")
        places[name][:] = data
    del places  # views that keep the buffer
    return bytes(copy)


def constants(plan: Plan, theta: Float, low: Float, high: Float) -> Mapping[str, Array]:
    """Every constant that depends on `theta` (P,) or on the ranges `low`, `high` (T,), by name."""
    made: dict[str, Array] = {name: np.ascontiguousarray(piece.of(theta)) for name, piece in plan.floats}
    inputs = []
    for name, least, most in zip(plan.activations, low, high, strict=True):
        scale, zero = affine(float(least), float(most))
        made |= {f"{name}.scale": np.asarray(scale), f"{name}.zero": np.asarray(zero)}
        inputs.append(scale)
    for layer in plan.layers:
        weight, activation = layer.weight.of(theta), inputs[layer.input]
        bias = None if layer.bias is None else layer.bias.of(theta)
        if layer.norm is not None:
            norm = layer.norm
            gain, shift, mean, variance = (p.of(theta) for p in (norm.gain, norm.bias, norm.mean, norm.variance))
            weight, bias = folded(weight, gain, shift, mean, variance, norm.eps)
        limit = weight_limit(layer.bits)
        scales = weight_scales(weight, layer.axis, limit)
        if bias is not None and layer.bias_levels is not None:
            scales = scales_for_bias(scales, bias, activation)
            both = (scales * activation).astype(np.float32)
            made |= {layer.bias_levels: quantize_bias(bias, both), f"{layer.bias_levels}.scale": both}
        made[layer.levels] = quantize_weight(weight, scales, layer.axis, limit)
        made[f"{layer.levels}.scale"] = scales
    return made
