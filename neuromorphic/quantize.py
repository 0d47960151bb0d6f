"""Float weights, thresholds and biases as the integers of a Loihi-2-class synapse and neuron, differentiably.

A scale k (weight units per unit of a float network whose threshold is 1) makes everything integer: weights
`step * round(W k / step)`, threshold `round(k)`, bias `round(64 k b)`, the 64 being Lava's shift of a synaptic current.
Gradients pass straight through every rounding (Bengio et al. 2013, arXiv 1308.3432).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgessl.errors import ConfigError

UNIT = 64  # one unit of weight adds this much to a membrane current
MAX_STATE = 1 << 23  # currents and voltages are 24-bit signed
MAX_THRESHOLD = (1 << 17) - 1
BIAS_LOW, BIAS_HIGH, MAX_BIAS_EXPONENT = -4096, 4095, 7
BITS = tuple(range(2, 9))
SHRINK = 40  # scales that the search tries; the last maps the largest weight to twice the largest integer


class StraightThrough(torch.autograd.Function):
    """`apply(value, exact)`: forward gives `exact` bit for bit, backward hands the gradient to `value`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, exact: Tensor) -> Tensor:
        """`exact`."""
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of `value`, and none for `exact`."""
        return gradient, None


def straight_through(value: Tensor, exact: Tensor) -> Tensor:
    """`exact`, with the gradient of `value`; same shape and dtype."""
    out: Tensor = StraightThrough.apply(value, exact.detach())
    return out


def weight_step(bits: int) -> int:
    """Distance of neighbouring weights of mixed sign: 2 at 8 bits (the sign costs one), 64 at 3.

    Raises:
        ConfigError: not 2 to 8 bits.
    """
    if bits not in BITS:
        raise ConfigError(f"weights of {bits} bits; expected {BITS[0]} to {BITS[-1]}")
    return 1 << (9 - bits)


def integer_weights(weights: Tensor, scale: float, bits: int) -> Tensor:
    """Weights on the grid of `bits`: multiples of `weight_step(bits)` in [-256, 256 - step], as floats.

    They are what Lava's truncation leaves alone, so that every simulator uses exactly these.
    """
    step = weight_step(bits)
    exact = (torch.round(weights * (scale / step)) * step).clamp(-256, 256 - step)
    return straight_through(weights * scale, exact)


def weight_scale(weights: Tensor, bits: int) -> float:
    """The scale k whose integer weights have the least squared error, the largest weights clipped where that is less.

    Raises:
        ConfigError: every weight is zero or one is not finite, or the threshold would leave its 17 bits.
    """
    step, largest = weight_step(bits), float(weights.detach().abs().max())
    if not 0 < largest < float("inf"):
        raise ConfigError(f"weights cannot be scaled: the largest magnitude is {largest}; expected finite and above 0")
    found = weights.detach().double()
    tried = [(256 - step) / largest * (1 + i / SHRINK) for i in range(SHRINK + 1)]
    errors = [float((integer_weights(found, k, bits) / k - found).square().sum()) for k in tried]
    scale = tried[min(range(len(tried)), key=errors.__getitem__)]
    if not 1 <= round(scale) <= MAX_THRESHOLD:
        raise ConfigError(
            f"threshold {round(scale)} is not in 1..{MAX_THRESHOLD}: the largest weight is {largest:.3g} of a"
            " threshold; balance or train the network first"
        )
    return scale


def bias_exponent(bias: Tensor, scale: float) -> int:
    """The least exponent (0 to 7) at which every bias fits a 13-bit mantissa.

    Raises:
        ConfigError: a bias is too large even for 7.
    """
    largest = float((bias.detach().double() * (UNIT * scale)).abs().max())
    for exponent in range(MAX_BIAS_EXPONENT + 1):
        if largest <= BIAS_HIGH << exponent:
            return exponent
    most = (BIAS_HIGH << MAX_BIAS_EXPONENT) / (UNIT * scale)
    raise ConfigError(f"a bias of {largest / (UNIT * scale):.3g} thresholds per step; at most {most:.3g} fit")


def integer_bias(bias: Tensor, scale: float) -> Tensor:
    """Biases as added to the voltage at each step, `mantissa << exponent`, as floats."""
    unit = 1 << bias_exponent(bias, scale)
    value = bias * (UNIT * scale)
    exact = (torch.round(value / unit)).clamp(BIAS_LOW, BIAS_HIGH) * unit
    return straight_through(value, exact)


def integer_threshold(scale: float) -> int:
    """The threshold's integer; a neuron fires above 64 times it."""
    return round(scale)


def decay(state: Tensor, keep: Tensor) -> Tensor:
    """`trunc(state * keep)`, `keep` a multiple of 1/4096: exact in float64 for 25-bit states, rounded toward zero."""
    value = state * keep
    return straight_through(value, torch.trunc(value))


def wrap(current: Tensor) -> Tensor:
    """A current beyond 24 bits, wrapped by one turn as Lava does; +2^23 itself is kept."""
    turn = 2.0 * MAX_STATE
    return torch.where(current > MAX_STATE, current - turn, torch.where(current <= -MAX_STATE, current + turn, current))
