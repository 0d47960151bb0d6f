"""How many samples the traced encoder takes at a time.

An exported step is a chain of operators that each read and write a whole batch's activations. Once those outgrow the
caches, every one of them waits for memory; a batch in pieces, each small enough, does not (one thread of a Zen 2 core,
2026-11-27: ResNet-8 151 -> 138 ms, ViT 205 -> 178), for more nodes and a sum of the pieces' gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgessl.encoders.base import Encoder, evaluation_mode
from edgessl.encoders.norm import BatchNorm
from edgessl.step import TrainStep

HALVED_FROM = 1 << 20  # bytes of a batch's largest activation; halves of less cost one thread 6-8 % (DS-CNN)
SIGNALS_HALVED_FROM = 1 << 18  # with 1-D convolutions, to which onnxruntime gives no second thread: halves win it back
PIECE_BYTES = 1 << 21  # of the largest activation; some of it, its gradient and a copy then fit a level-3 cache
_FLOAT = 4


def piece_rows(encoder: Encoder, theta_size: int, batch_size: int) -> int | None:
    """The most samples, a power of two, that `encoder` should take at a time, each half of a batch by itself
    (`edgessl.objectives.network.piece_starts`); None for all there are.

    A piece's largest activation has at most `PIECE_BYTES`, unless that is less than theta: each piece adds a gradient
    of theta's size.
    """
    if any(isinstance(module, BatchNorm) for module in encoder.modules()):
        return None  # its samples see each other
    per_sample = _FLOAT * largest_activation(encoder)
    signals = any(isinstance(module, nn.Conv1d) for module in encoder.modules())
    if batch_size * per_sample < (SIGNALS_HALVED_FROM if signals else HALVED_FROM):
        return None
    rows = max(PIECE_BYTES, _FLOAT * theta_size) // per_sample
    return 1 << (int(rows).bit_length() - 1) if rows else 1


def largest_activation(encoder: Encoder) -> int:
    """Values of the largest tensor that one sample becomes on its way through the encoder's modules."""
    largest = 0

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output[:1].numel())

    handles = [module.register_forward_hook(watch) for module in encoder.modules()]
    try:
        with evaluation_mode(encoder), torch.no_grad():
            encoder(torch.zeros(1, *encoder.input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return largest


@contextmanager
def in_pieces(step: TrainStep, rows: int | None) -> Iterator[None]:
    """Within, the step's encoder takes at most `rows` samples at a time."""
    step.parts.piece_rows = rows
    try:
        yield
    finally:
        step.parts.piece_rows = None
