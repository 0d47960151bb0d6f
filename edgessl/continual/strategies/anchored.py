"""What penalties on parameters share: importances, an anchor, and the pull towards it."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.layout import ParameterLayout
from edgessl.objectives.base import Slots
from edgessl.optim import l2_norm


def anchored_slots(theta: Tensor) -> Slots:
    """`anchor`: where the past ended; `importances`: of each parameter for the past, zero as long as there is none."""
    return {"anchor": theta.clone(), "importances": torch.zeros_like(theta)}


def anchored_penalty(theta: Tensor, slots: Slots, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight / 2 sum_i importance_i (theta_i - anchor_i)^2` and its gradient `(size,)`."""
    away = theta - slots["anchor"]
    pull = slots["importances"] * away
    # as a norm of the root: onnxruntime adds long vectors one by one
    value = l2_norm(slots["importances"].sqrt() * away).square()
    return 0.5 * weight * value, weight * pull


def accumulated(state: Slots, importance: Tensor, decay: Tensor, layout: ParameterLayout) -> Slots:
    """The slots after a consolidation: `importance` enters a decaying sum, and theta becomes the anchor.

    Online EWC (Schwarz et al. 2018, arXiv 1805.06370): one anchor and one importance however long the
    stream; each new importance is scaled to mean 1 over the trained parameters first, so that every stretch of the past
    counts alike and one penalty weight fits networks of any scale.
    """
    unit = importance / (importance[: layout.trained_end].mean() + 1e-30)
    return {"anchor": state["theta"], "importances": decay * state["importances"] + unit}
