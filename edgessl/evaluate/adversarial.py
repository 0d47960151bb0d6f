"""Adversarial robustness: FGSM and PGD on an encoder with a linear head, within a small L-infinity ball.

Radii are in normalised units: 0.1 is a tenth of a channel's standard deviation. Images stay within [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders.base import evaluation_mode
from edgessl.errors import InputError
from edgessl.evaluate.embedder import BATCH

Array = np.ndarray[Any, np.dtype[Any]]
RADII = (0.0, 0.01, 0.03, 0.1)
PGD_STEPS = 10


@dataclass(frozen=True, eq=False)
class LinearModel:
    """An encoder and the linear probe on it as one differentiable function; `classes` `(C,)` name its outputs."""

    encoder: nn.Module
    head: nn.Linear
    classes: Array

    @classmethod
    def of(cls, encoder: nn.Module, probe: Any) -> LinearModel:
        """From a fitted `edgessl.evaluate.probes.fit_linear`; its standardisation is folded into the layer."""
        scaler, regression = probe[0], probe[-1]
        weight = regression.coef_ / scaler.scale_
        bias = regression.intercept_ - weight @ scaler.mean_
        if len(weight) == 1:  # two classes: scikit-learn keeps one row of log-odds
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        head = nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
        return cls(encoder, head.to(_device(encoder)), regression.classes_)

    def logits(self, x: Tensor) -> Tensor:
        """Scores `(N, C)` of samples `(N, *shape)` in their own units, in evaluation mode."""
        with evaluation_mode(self.encoder):
            scores: Tensor = self.head(self.encoder(x))
        return scores

    def gradient(self, x: Tensor, targets: Tensor) -> Tensor:
        """The gradient of each sample's cross-entropy to the sample."""
        leaf = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(F.cross_entropy(self.logits(leaf), targets, reduction="sum"), leaf)
        return found


def attack(
    model: LinearModel, x: Tensor, targets: Tensor, radius: float, steps: int, std: Tensor, image: bool
) -> Tensor:
    """Adversarial samples within `radius` (L-infinity, in units of `std`) of `x`; images stay within [0, 1].

    One step of the full radius is FGSM (Goodfellow et al. 2015, section 4); several of 2.5 radius / steps, each
    followed by projection onto the ball, are PGD (Madry et al. 2018, section 2.1), started at `x` itself.
    """
    size = radius if steps == 1 else 2.5 * radius / steps
    found = x
    for _ in range(steps):
        moved = found + size * std * model.gradient(found, targets).sign()
        found = torch.minimum(torch.maximum(moved, x - radius * std), x + radius * std)
        found = found.clamp(0, 1) if image else found
    return found


def adversarial_accuracy(
    model: LinearModel,
    samples: Array,
    labels: Array,
    spec: InputSpec,
    radii: Sequence[float] = RADII,
) -> dict[str, Any]:
    """Accuracy under FGSM and PGD (10 steps) at each radius, and the largest perturbation there was.

    A sample counts as lost from the smallest radius at which it was fooled: that adversarial example lies in every
    larger ball too, so accuracy cannot rise with the radius. Radius 0 is the clean accuracy.

    Returns:
        `radii`, `fgsm` and `pgd` (accuracies), `largest` (per radius, in normalised units; at most the radius).

    Raises:
        InputError: radii that are negative or do not rise.
    """
    if list(radii) != sorted(set(radii)) or min(radii) < 0:
        raise InputError(f"radii {tuple(radii)}: give rising numbers of 0 or more")
    device = _device(model.head)
    std = torch.tensor(spec.std, dtype=torch.float32, device=device).reshape(-1, *[1] * (len(spec.shape) - 1))
    place = {label: i for i, label in enumerate(model.classes.tolist())}
    known = np.array([label in place for label in labels.tolist()])
    samples, labels = samples[known], labels[known]
    targets = torch.tensor([place[label] for label in labels.tolist()], device=device)
    result: dict[str, Any] = {"radii": list(radii), "samples": len(samples), "largest": [0.0] * len(radii)}
    for name, steps in (("fgsm", 1), ("pgd", PGD_STEPS)):
        standing = np.ones(len(samples), bool)
        accuracies = []
        for r, radius in enumerate(radii):
            for i in range(0, len(samples), BATCH):
                x, y = torch.from_numpy(samples[i : i + BATCH]).to(device), targets[i : i + BATCH]
                changed = attack(model, x, y, radius, steps, std, spec.kind == "image") if radius else x
                with torch.no_grad():
                    right = (model.logits(changed).argmax(1) == y).cpu().numpy()
                standing[i : i + BATCH] &= right
                result["largest"][r] = max(result["largest"][r], float(((changed - x) / std).abs().max()))
            accuracies.append(float(standing.mean()))
        result[name] = accuracies
    return result


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
