"""What fires: inputs and populations of neurons, each with the ranges that Lava 0.10.0's fixed-point models take.

What one unit means: u and v are 24-bit registers, an input of 1 adds 64 to u, thresholds are stored divided by 64,
biases are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgessl.errors import ConfigError

REGISTER = 1 << 23  # u and v are signed 24-bit registers


TRACES = ("y0", "y1", "y2", "y3")


def check_range(what: str, value: Any, low: int, high: int, advice: str) -> None:
    """Refuse numbers that are not integers in low..high.

    Raises:
        ConfigError: names `what`, the range, what was found and `advice`.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ConfigError(f"{what} must be integers, found {array.dtype}; {advice}")
    if array.size and (array.min() < low or array.max() > high):
        raise ConfigError(f"{what} must be in {low}..{high}, found {array.min()}..{array.max()}; {advice}")


@dataclass(frozen=True)
class Input:
    """Spikes from outside.

    Args:
        name: unique in the network.
        size: number of channels.
        payload_bits: 0 for binary spikes {0, 1}, else graded ones in -(2^b - 1)..2^b - 1, up to 24 bits.
    """

    name: str
    size: int
    payload_bits: int = 0

    def __post_init__(self) -> None:
        check_range(f"input {self.name!r}: size", self.size, 1, 1 << 24, "give the number of channels")
        check_range(f"input {self.name!r}: payload_bits", self.payload_bits, 0, 24, "0 is binary")

    @property
    def limit(self) -> int:
        """Largest magnitude of a spike."""
        return (1 << self.payload_bits) - 1 if self.payload_bits else 1


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one kind; see the subclasses. `spike_limit` is the largest magnitude one of its spikes can have."""

    name: str
    size: int

    kind: ClassVar[str] = ""
    spike_limit: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range(f"population {self.name!r}: size", self.size, 1, 1 << 24, "give the number of neurons")
        self._check()

    def _check(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class LIF(Population):
    """Current-based leaky integrate-and-fire (lava/proc/lif: PyLifModelBitAcc, and LIFReset where reset_interval > 0).

    u <- decay(u, du + 1) + 64 a, wrapping at 24 bits; v <- decay(v, dv) + u + bias, saturating; a spike where
    v > 64 vth, which sets v to 0. decay(x, d) = x (4096 - d) / 4096 rounded toward zero.

    Args:
        name: unique in the network.
        size: number of neurons.
        du: current decay, 0..4095; the effective one is du + 1, so 4095 keeps the input only.
        dv: voltage decay, 0..4095; 0 does not leak.
        vth: threshold / 64, 0..131071.
        bias: mantissa, -4096..4095, an integer or (size,).
        bias_exp: bias is shifted left by it, 0..7, an integer or (size,).
        reset_interval: every so many steps u and v start from 0; 0 never.
        reset_offset: step (counted from 1) modulo the interval at which that happens.
    """

    du: int = 0
    dv: int = 0
    vth: int = 10
    bias: int | np.ndarray = 0
    bias_exp: int | np.ndarray = 0
    reset_interval: int = 0
    reset_offset: int = 0

    kind: ClassVar[str] = "lif"

    def _check(self) -> None:
        who = f"population {self.name!r}: "
        check_range(who + "du", self.du, 0, 4095, "it is a 12-bit decay: 4096 * (1 - alpha) - 1")
        check_range(who + "dv", self.dv, 0, 4095, "it is a 12-bit decay: 4096 * (1 - beta)")
        check_range(who + "vth", self.vth, 0, (1 << 17) - 1, "it is a 17-bit threshold; scale the layer's weights down")
        check_range(who + "bias", self.bias, -4096, 4095, "use bias_exp for larger ones")
        check_range(who + "bias_exp", self.bias_exp, 0, 7, "scale the layer's weights down")
        check_range(who + "reset_interval", self.reset_interval, 0, 1 << 30, "0 never resets")
        check_range(who + "reset_offset", self.reset_offset, 0, 1 << 30, "it is taken modulo the interval")
        for name in ("bias", "bias_exp"):
            shape = np.shape(getattr(self, name))
            if shape not in ((), (self.size,)):
                raise ConfigError(f"{who}{name} must be one number or ({self.size},), found shape {shape}")
            if shape:
                object.__setattr__(self, name, np.asarray(getattr(self, name), np.int32))

    @property
    def bias_current(self) -> np.ndarray:
        """bias << bias_exp, int32 (size,)."""
        shifted = np.left_shift(np.asarray(self.bias, np.int32), np.asarray(self.bias_exp, np.int32))
        return np.ascontiguousarray(np.broadcast_to(shifted, (self.size,)), np.int32)


@dataclass(frozen=True, eq=False)
class TernaryLIF(LIF):
    """A LIF that also fires -1, where v < 64 vth_lo (lava/proc/lif: PyTernLifModelFixed).

    Args:
        vth_lo: lower threshold / 64, -131071..0. The others: see LIF; it has no periodic reset.
    """

    vth_lo: int = -10

    kind: ClassVar[str] = "ternary"

    def _check(self) -> None:
        super()._check()
        who = f"population {self.name!r}: "
        check_range(who + "vth_lo", self.vth_lo, -(1 << 17) + 1, self.vth, "it is the lower threshold, below vth")
        if self.reset_interval:
            raise ConfigError(f"{who}a ternary LIF has no periodic reset, found reset_interval={self.reset_interval}")


@dataclass(frozen=True, eq=False)
class Graded(Population):
    """No dynamics: what arrives is sent on as a graded spike (lava/proc/graded: GradedVec, GradedReluVec).

    s = a where |a| > vth (relu: where a > vth), else 0.

    Args:
        name: unique in the network.
        size: number of neurons.
        vth: threshold, 0..2^23 - 1, in units of a.
        relu: only positive values pass.
    """

    vth: int = 1
    relu: bool = False

    kind: ClassVar[str] = "graded"
    spike_limit: ClassVar[int] = (1 << 31) - 1

    def _check(self) -> None:
        check_range(f"population {self.name!r}: vth", self.vth, 0, REGISTER - 1, "it is a 23-bit magnitude")


@dataclass(frozen=True, eq=False)
class ErrorUnit(Population):
    """Predictive-coding error neurons, this project's own microcode for Loihi 2's programmable neurons.

    p <- decay(p) + a, t <- decay(t) + a_target, e = (t - p) >> shift; y1 = clip(e, 0, 127), y2 = clip(-e, 0, 127), y3
    = 0, the gate y0 = (e != 0), and the graded spike y1 - y2 for connections that carry the error on. Connections
    reach it at port "a" (prediction) or "target". p and t take the places of u and v in records.

    Args:
        name: unique in the network.
        size: number of neurons.
        decay: of p and t per step, 0..4095, in 1/4096.
        shift: of the error, 0..23.
    """

    decay: int = 512
    shift: int = 0

    kind: ClassVar[str] = "error"
    spike_limit: ClassVar[int] = 127

    def _check(self) -> None:
        who = f"population {self.name!r}: "
        check_range(who + "decay", self.decay, 0, 4095, "it is a 12-bit decay")
        check_range(who + "shift", self.shift, 0, 23, "the error has 24 bits")


POPULATIONS: dict[str, type[Population]] = {cls.kind: cls for cls in (LIF, TernaryLIF, Graded, ErrorUnit)}
