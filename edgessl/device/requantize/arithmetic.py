"""The arithmetic of quantization, the same at the workstation and on the device.

real = scale * (level - zero_point). Weights are symmetric (zero point 0), per output channel; activations are per
tensor, uint8 with a zero point, or int8 without one. Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float32]

BIAS_LIMIT = float(1 << 30)  # of int32 levels: half, so that adding the products cannot overflow
TINY = float(np.finfo(np.float32).tiny)


def weight_limit(bits: int) -> int:
    """Largest level of a symmetric weight of `bits`: 127 for 8, 63 for 7, 7 for 4."""
    return (1 << (bits - 1)) - 1


def weight_scales(weight: Array, axis: int, limit: int) -> Float:
    """Scales (C,) with which the largest magnitude of each channel of `weight` along `axis` is level `limit`.

    A channel of zeros gets scale 1.
    """
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    most = np.abs(weight).max(rest).astype(np.float64)
    scales: Float = np.where(most > 0, np.maximum(most / limit, TINY), 1.0).astype(np.float32)
    return scales


def scales_for_bias(scales: Float, bias: Array, activation: np.float32) -> Float:
    """`scales` (C,) raised where `bias` (C,), at `activation * scales`, would not fit int32: a nearly dead channel has
    tiny weights and a bias of any size."""
    least = np.abs(bias.astype(np.float64)) / (float(activation) * BIAS_LIMIT)
    raised: Float = np.maximum(scales.astype(np.float64), least).astype(np.float32)
    return raised


def quantize_weight(weight: Array, scales: Float, axis: int, limit: int) -> npt.NDArray[np.int8]:
    """Levels of `weight`, int8 in [-limit, limit], with `scales` (C,) along `axis`."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = np.rint(weight.astype(np.float64) / scales.astype(np.float64).reshape(shape))
    return levels.clip(-limit, limit).astype(np.int8)


def quantize_bias(bias: Array, scales: Float) -> npt.NDArray[np.int32]:
    """Levels of `bias` (C,) with `scales` (C,), those of activation times weight."""
    levels = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    return levels.clip(-BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)


def affine(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 levels that cover [low, high] and 0; 0 itself is met exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255, TINY)) if high > low else np.float32(1)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))


def symmetric(low: float, high: float) -> np.float32:
    """Scale of int8 levels -127..127 that cover [low, high], zero point 0."""
    most = max(abs(low), abs(high))
    return np.float32(max(most / 127, TINY)) if most > 0 else np.float32(1)


def folded(weight: Array, gain: Array, bias: Array, mean: Array, variance: Array, eps: float) -> tuple[Float, Float]:
    """Weight (C, ...) and bias (C,) of a convolution that carries the batch norm behind it; computed in float64."""
    factor = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + eps)
    kernel = weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    shift = bias.astype(np.float64) - mean.astype(np.float64) * factor
    return kernel.astype(np.float32), shift.astype(np.float32)
