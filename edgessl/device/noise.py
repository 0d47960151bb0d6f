"""All randomness of a step, as a function of (seed, step number): the same anywhere, nothing to save."""

import numpy as np
import numpy.typing as npt

from edgessl.errors import InputError

# Stream numbers: no two uses share a generator.
NOISE, REPLAY, RESERVOIR, POLICY, SLEEP, PROBE = 0, 2, 3, 4, 5, 6


def stream(seed: int, which: int, t: int) -> np.random.Generator:
    """The generator of stream `which` at count `t` (PCG64 seeded by [seed, which, t]); all >= 0."""
    if seed < 0 or t < 0:
        raise InputError(f"seed and step number must be >= 0, found {seed} and {t}")
    return np.random.default_rng([seed, which, t])


def step_noise(seed: int, t: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Uniform [0, 1) float32 numbers of `shape` (N, width) for training step number `t`."""
    return stream(seed, NOISE, t).random(shape, dtype=np.float32)


def probe_signs(seed: int, t: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Random signs, -1 or 1, float32, of `shape` (samples, D), for consolidation number `t`."""
    return np.where(stream(seed, PROBE, t).random(shape) < 0.5, np.float32(-1), np.float32(1))
