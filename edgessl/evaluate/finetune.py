"""Fine-tuning: every weight trained with labels. From random weights it is the supervised reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgessl.data.source import epoch_order
from edgessl.encoders import Encoder, collect_batch_statistics
from edgessl.errors import InputError
from edgessl.evaluate.embedder import embed
from edgessl.views import Pipeline

Array = np.ndarray[Any, np.dtype[Any]]
LR, BATCH_SIZE, WARMUP = 3e-3, 32, 0.05
STATISTICS_MOMENTUM = 0.1  # of running batch-norm figures, as in torch


@dataclass(frozen=True)
class Tuned:
    """The encoder after the last epoch and its linear classifier; `classes` `(C,)` are the labels of its outputs."""

    encoder: Encoder
    head: nn.Linear
    classes: Array

    @torch.no_grad()
    def predict(self, samples: Array) -> Array:
        """Classes `(N,)` of samples `(N, *shape)`."""
        logits = self.head(torch.from_numpy(embed(self.encoder, samples)).to(self.head.weight))
        predicted: Array = self.classes[logits.argmax(1).cpu().numpy()]
        return predicted


def fine_tune(
    encoder: Encoder,
    samples: Array,
    labels: Array,
    *,
    epochs: int = 20,
    lr: float = LR,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    views: Pipeline | None = None,
    device: str = "cpu",
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Tuned:
    """Train a copy of `encoder` and a linear layer on it with cross-entropy; the weights of the last epoch stay.

    AdamW (weight decay 0.05 on matrices), the learning rate rising over 5 % of the steps and then falling to 0 along a
    cosine. The same call on an encoder with its initial weights is the supervised reference. Batch norms move as in
    training.

    Args:
        samples: `(N, *shape)` float32; labels: `(N,)`, any integers.
        seed: of the order of samples and of the views; the linear layer starts at zero.
        views: random views to train on, those of pretraining for a fair comparison; None for the samples themselves.

    Raises:
        InputError: fewer than two classes, or not one label per sample.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or len(labels) != len(samples):
        raise InputError(f"fine-tuning: {len(samples)} samples, {len(labels)} labels of {len(classes)} classes")
    model = copy.deepcopy(encoder).to(device).train().requires_grad_(True)
    head = nn.Linear(model.embedding_dim, len(classes)).to(device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    matrices = [p for p in [*model.parameters(), *head.parameters()] if p.ndim > 1]
    vectors = [p for p in [*model.parameters(), *head.parameters()] if p.ndim <= 1]
    decayed: list[dict[str, Any]] = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors}]
    optimizer = torch.optim.AdamW(decayed, lr, weight_decay=0)
    size = min(batch_size, len(samples))
    steps = len(samples) // size
    total = epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: _share(t, total))
    rng = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = epoch_order(len(samples), seed, epoch)
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            x, y = torch.from_numpy(samples[rows]).to(device), torch.from_numpy(targets[rows]).to(device)
            if views is not None:
                x = views(x, torch.rand(size, views.width, generator=rng).to(device))
            optimizer.zero_grad()
            F.cross_entropy(head(model(x)), y).backward()
            optimizer.step()
            schedule.step()
            _move_statistics(model)
        on_epoch(epoch + 1)
    return Tuned(model.eval(), head, classes)


def supervised_settings(epochs: int) -> dict[str, Any]:
    """How `fine_tune` is called in an evaluation, for the protocol."""
    settings = {"optimizer": "AdamW", "lr": LR, "batch_size": BATCH_SIZE, "warmup": WARMUP}
    return {**settings, "epochs": epochs, "views": "those of pretraining", "seed": "that of pretraining"}


def _share(t: int, total: int) -> float:
    """Share of the learning rate at step `t`."""
    return min(1.0, (t + 1) / max(1.0, WARMUP * total)) * 0.5 * (1 + math.cos(math.pi * min(1.0, t / max(1, total))))


@torch.no_grad()
def _move_statistics(model: Encoder) -> None:
    """Running batch-norm figures: our BatchNorm hands them out instead of moving them itself."""
    buffers = dict(model.named_buffers())
    for name, value in collect_batch_statistics(model).items():
        buffers[name].lerp_(value, STATISTICS_MOMENTUM)
