"""Fine-tuning: every weight trained with labels. From random weights it is the supervised reference."""

from __future__ import annotations

import copy
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

Array = np.ndarray[Any, np.dtype[Any]]
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
    lr: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Tuned:
    """Train a copy of `encoder` and a linear layer on it with cross-entropy; the weights of the last epoch stay.

    AdamW (weight decay 0.05 on matrices), the learning rate falling to 0 along a cosine, no augmentation. The same
    call on an encoder with its initial weights is the supervised reference. Batch norms move as in training.

    Args:
        samples: `(N, *shape)` float32; labels: `(N,)`, any integers.
        seed: of the order of samples; the linear layer starts at zero.

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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * steps))
    for epoch in range(epochs):
        order = epoch_order(len(samples), seed, epoch)
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            x, y = torch.from_numpy(samples[rows]).to(device), torch.from_numpy(targets[rows]).to(device)
            optimizer.zero_grad()
            F.cross_entropy(head(model(x)), y).backward()
            optimizer.step()
            schedule.step()
            _move_statistics(model)
        on_epoch(epoch + 1)
    return Tuned(model.eval(), head, classes)


@torch.no_grad()
def _move_statistics(model: Encoder) -> None:
    """Running batch-norm figures: our BatchNorm hands them out instead of moving them itself."""
    buffers = dict(model.named_buffers())
    for name, value in collect_batch_statistics(model).items():
        buffers[name].lerp_(value, STATISTICS_MOMENTUM)
