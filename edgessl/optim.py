"""Optimizers as pure functions on flat vectors: `update(theta, gradient, slots, hyper, layout) -> (theta, slots)`.

The gradient is zero outside the trained prefix, so running statistics and fixed entries pass through unchanged.
Each optimizer names its slots (flat vectors of the parameter layout, or scalars) and its hyperparameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from edgessl.errors import ConfigError
from edgessl.layout import ParameterLayout

Slots = dict[str, Tensor]
_ROW = 1024


class Optimizer(ABC):
    """A pure update rule on the flat vector."""

    name: ClassVar[str]
    hyper: ClassVar[dict[str, float]]

    @abstractmethod
    def slots(self, theta: Tensor) -> Slots:
        """Initial slots for a flat vector `(size,)`."""

    @abstractmethod
    def update(
        self, theta: Tensor, gradient: Tensor, slots: Slots, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """One step. All vectors `(size,)` float32; `hyper` holds 0-d tensors. Returns the new theta and slots."""


class SGD(Optimizer):
    """SGD with momentum and coupled weight decay, in the form of `torch.optim.SGD` (no dampening)."""

    name = "sgd"
    hyper: ClassVar[dict[str, float]] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}

    def slots(self, theta: Tensor) -> Slots:
        """One momentum buffer."""
        return {"momentum": torch.zeros_like(theta)}

    def update(
        self, theta: Tensor, gradient: Tensor, slots: Slots, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """`v = momentum v + (g + decay w)`; `w = w - lr v`."""
        momentum = hyper["momentum"] * slots["momentum"] + gradient + hyper["weight_decay"] * _decayed(theta, layout)
        return theta - hyper["lr"] * momentum, {"momentum": momentum}


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2), in the form of `torch.optim.AdamW`."""

    name = "adamw"
    hyper: ClassVar[dict[str, float]] = {
        "lr": 1e-3,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1e-2,
    }

    def slots(self, theta: Tensor) -> Slots:
        """Two moments and the number of updates so far (float32: exact to 16.7 million)."""
        return {
            "first_moment": torch.zeros_like(theta),
            "second_moment": torch.zeros_like(theta),
            "updates": torch.zeros((), dtype=theta.dtype, device=theta.device),
        }

    def update(
        self, theta: Tensor, gradient: Tensor, slots: Slots, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """Bias-corrected moments, decay decoupled from the gradient."""
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        updates = slots["updates"] + 1
        first = beta1 * slots["first_moment"] + (1 - beta1) * gradient
        second = beta2 * slots["second_moment"] + (1 - beta2) * gradient * gradient
        unbiased_first = first / (1 - beta1**updates)
        unbiased_second = second / (1 - beta2**updates)
        direction = unbiased_first / (unbiased_second.sqrt() + hyper["eps"])
        direction = direction + hyper["weight_decay"] * _decayed(theta, layout)
        return theta - hyper["lr"] * direction, {
            "first_moment": first,
            "second_moment": second,
            "updates": updates,
        }


class LARS(Optimizer):
    """LARS (You et al. 2017): SGD-momentum with a trust ratio per weight tensor, for large batches.

    Vectors (biases, norm gains) are neither decayed nor scaled, as in the SimCLR and BYOL recipes.
    """

    name = "lars"
    hyper: ClassVar[dict[str, float]] = {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-6, "trust": 1e-3}

    def slots(self, theta: Tensor) -> Slots:
        """One momentum buffer."""
        return {"momentum": torch.zeros_like(theta)}

    def update(
        self, theta: Tensor, gradient: Tensor, slots: Slots, hyper: Slots, layout: ParameterLayout
    ) -> tuple[Tensor, Slots]:
        """`v = momentum v + ratio (g + decay w)` with `ratio = trust |w| / (|g + decay w|)` (1 where either is 0)."""
        direction = gradient + hyper["weight_decay"] * _decayed(theta, layout)
        weights, scaled = layout.unflatten(theta), []
        for name, g in layout.unflatten(direction).items():
            if name in _weight_names(layout):
                w_norm, g_norm = l2_norm(weights[name]), l2_norm(g)
                usable = (w_norm > 0) & (g_norm > 0)
                g = g * torch.where(usable, hyper["trust"] * w_norm / (g_norm + 1e-12), torch.ones_like(w_norm))
            scaled.append(g.reshape(-1))
        momentum = hyper["momentum"] * slots["momentum"] + torch.cat(scaled)
        return theta - hyper["lr"] * momentum, {"momentum": momentum}


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (SGD, AdamW, LARS)}


def build_optimizer(name: str) -> Optimizer:
    """The optimizer registered under `name`.

    Raises:
        ConfigError: no such optimizer.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {name!r}; choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]()


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Scale `gradient` `(size,)` so that its L2 norm is at most `max_norm`; returns it and the norm before clipping."""
    norm = l2_norm(gradient)
    return gradient * torch.clamp(max_norm / (norm + 1e-6), max=1.0), norm


def l2_norm(x: Tensor) -> Tensor:
    """L2 norm of all of `x`, summed in rows: onnxruntime adds one by one, and over 11 million squares was 1e-3 off."""
    flat = x.reshape(-1)
    rows = F.pad(flat, (0, -flat.numel() % _ROW)).reshape(-1, _ROW)
    return rows.square().sum(1).sum().sqrt()


def _decayed(theta: Tensor, layout: ParameterLayout) -> Tensor:
    """`theta` with zeros wherever weight decay does not apply."""
    return F.pad(theta[: layout.weights_end], (0, layout.size - layout.weights_end))


def _weight_names(layout: ParameterLayout) -> frozenset[str]:
    return frozenset(e.name for e in layout.entries if e.kind == "weight")
