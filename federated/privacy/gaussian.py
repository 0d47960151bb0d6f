"""The Gaussian mechanism on a flat vector: clip, add noise, and what that costs.

Dwork and Roth, "The algorithmic foundations of differential privacy", 2014; Mironov, "Rényi differential privacy", CSF
2017; the conversion to (epsilon, delta) is that of Canonne, Kamath and Steinke, "The discrete Gaussian for differential
privacy", NeurIPS 2020, proposition 12, which Flower's accountant uses too.
"""

import math

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]
_ORDERS = np.concatenate([1 + np.arange(1, 100) / 10, np.arange(11, 65), 2.0 ** np.arange(6.5, 13, 0.5)])


def clip(change: Double, norm: float) -> Double:
    """The vector float64 (P,), scaled to Euclidean length `norm` where it is longer."""
    length = float(np.linalg.norm(change))
    return change if length <= norm else change * (norm / length)


def noise(size: int, deviation: float, rng: np.random.Generator | None = None) -> Double:
    """Gaussian noise float64 (size,).

    From the operating system's entropy unless a test gives `rng`: whoever can guess the seed can take the noise off
    again, which is why not numpy's global state, as Flower's own primitive does, nor a seed from the settings.
    """
    return (rng or np.random.default_rng()).normal(0.0, deviation, size)


def epsilon(releases: int, noise_multiplier: float, delta: float) -> float:
    """What `releases` Gaussian releases cost at `delta`; noise_multiplier = standard deviation / sensitivity.

    Each release costs order / (2 noise_multiplier^2) of Rényi divergence at every order; no amplification by sampling
    is counted. 0 for no release.
    """
    if releases == 0:
        return 0.0
    divergence = releases * _ORDERS / (2 * noise_multiplier**2)
    found = divergence + np.log1p(-1 / _ORDERS) - (math.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1)
    return max(0.0, float(found.min()))
