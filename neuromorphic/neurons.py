"""Populations of the numpy simulator: (batch, n) registers and what a step makes of them."""

from __future__ import annotations

import numpy as np

from neuromorphic.populations import LIF, REGISTER, ErrorUnit, Graded, Population, TernaryLIF


def decay(register: np.ndarray, by: int) -> np.ndarray:
    """x (4096 - by) / 4096, rounded toward zero, int32."""
    product = register.astype(np.int64) * (4096 - by)
    return (np.sign(product) * (np.abs(product) >> 12)).astype(np.int32)


class LIFNeurons:
    """LIF and ternary LIF neurons."""

    def __init__(self, p: LIF, batch: int) -> None:
        self.p = p
        self.u, self.v = np.zeros((batch, p.size), np.int32), np.zeros((batch, p.size), np.int32)
        self._bias = p.bias_current
        self._low = p.vth_lo << 6 if isinstance(p, TernaryLIF) else None
        self.gate = np.zeros((batch, p.size), np.int64)

    def step(self, a: np.ndarray, target: np.ndarray, time: int) -> np.ndarray:
        """Spikes (batch, n) of this step, counted from 1, for what arrives at both ports."""
        p = self.p
        if p.reset_interval and time % p.reset_interval == p.reset_offset % p.reset_interval:
            self.u[...] = self.v[...] = 0
        raw = decay(self.u, p.du + 1) + (a << 6)  # int32, as wide as Lava's
        wrapped = np.where(raw > REGISTER, raw - 2 * REGISTER, raw)
        self.u[...] = np.where(wrapped <= -REGISTER, raw + 2 * REGISTER, wrapped)  # u wraps one turn, v saturates
        self.v[...] = np.clip(decay(self.v, p.dv) + self.u + self._bias, -REGISTER + 1, REGISTER - 1)
        spikes = (self.v > p.vth << 6).astype(np.int8)
        if self._low is not None:
            spikes -= self.v < self._low
        self.v[spikes != 0] = 0
        return spikes

    def reset(self) -> None:
        """Back to rest."""
        self.u[...] = self.v[...] = 0


class GradedNeurons:
    """No dynamics."""

    def __init__(self, p: Graded, batch: int) -> None:
        self.p = p
        self.u, self.v = np.zeros((batch, 0), np.int32), np.zeros((batch, 0), np.int32)
        self.gate = np.zeros((batch, p.size), np.int64)

    def step(self, a: np.ndarray, target: np.ndarray, time: int) -> np.ndarray:
        """Spikes (batch, n) of this step, counted from 1, for what arrives at both ports."""
        return a * (a > self.p.vth if self.p.relu else np.abs(a) > self.p.vth)

    def reset(self) -> None:
        """Back to rest."""
        pass


class ErrorNeurons:
    """Predictive-coding error neurons; u and v are prediction and target."""

    def __init__(self, p: ErrorUnit, batch: int) -> None:
        self.p = p
        self.u, self.v = np.zeros((batch, p.size), np.int32), np.zeros((batch, p.size), np.int32)
        self.gate = np.zeros((batch, p.size), np.int64)

    def step(self, a: np.ndarray, target: np.ndarray, time: int) -> np.ndarray:
        """Spikes (batch, n) of this step, counted from 1, for what arrives at both ports."""
        self.u[...] = decay(self.u, self.p.decay) + a
        self.v[...] = decay(self.v, self.p.decay) + target
        error = (self.v - self.u) >> self.p.shift
        self.gate[...] = error != 0
        return np.clip(error, -127, 127).astype(np.int8)

    def reset(self) -> None:
        """Back to rest."""
        self.u[...] = self.v[...] = 0


def make_neurons(p: Population, batch: int) -> LIFNeurons | GradedNeurons | ErrorNeurons:
    """The lanes of a population."""
    if isinstance(p, LIF):
        return LIFNeurons(p, batch)
    if isinstance(p, Graded):
        return GradedNeurons(p, batch)
    assert isinstance(p, ErrorUnit)
    return ErrorNeurons(p, batch)
