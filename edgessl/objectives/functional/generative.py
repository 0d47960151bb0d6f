"""What the generative objectives stand on: the KL term of variational bottlenecks, and the diffusion's noise levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgessl.errors import ConfigError

Levels = np.ndarray[Any, np.dtype[np.float64]]
SCHEDULES = ("linear", "cosine")


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence `(N,)` from N(mean, diag exp(log_variance)), both `(N, Z)`, to N(0, I), in nats.

    Kingma & Welling 2014 (arXiv 1312.6114), appendix B.
    """
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1 - log_variance).sum(dim=1)


def signal_levels(steps: int, schedule: str) -> Levels:
    """The share of variance that is still signal after 1 ... `steps` noising steps, `alpha_bar` `(steps,)`.

    "linear": variances from 1e-4 to 0.02 (Ho et al. 2020, section 4), times 1000 / steps, so that fewer steps end in
    noise too. "cosine": Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17, variances at most 0.999.

    Raises:
        ConfigError: another schedule, or fewer than 20 steps, where the linear variances would reach 1.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown noise schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}")
    if steps <= 20:
        raise ConfigError(f"noise schedule: expected more than 20 steps, found {steps}")
    if schedule == "linear":
        variances = np.linspace(1e-4, 0.02, steps) * (1000 / steps)
    else:
        offset = 0.008
        f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * math.pi / 2) ** 2
        variances = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.cumprod(1 - variances, dtype=np.float64)


def diffuse(x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """`sqrt(level) x + sqrt(1 - level) noise` (Ho et al. 2020, arXiv 2006.11239, eq. 4).

    Args:
        x: `(N, ...)` of about unit variance; noise: standard normal, the same shape.
        level: share of signal `(N,)`, in [0, 1].
    """
    level = level.reshape(-1, *[1] * (x.ndim - 1))
    return torch.sqrt(level) * x + torch.sqrt(1 - level) * noise


def time_embedding(t: Tensor, size: int) -> Tensor:
    """Cosines and sines `(N, size)` of times `t` `(N,)` at wavelengths from 2 pi to 20 000 pi (Vaswani et al. 2017)."""
    half = size // 2
    index = torch.arange(half, dtype=t.dtype, device=t.device)
    angle = t.unsqueeze(1) * torch.exp(index * (-math.log(10_000.0) / half))
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
