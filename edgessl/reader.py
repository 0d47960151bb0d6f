"""Batches read ahead of the step in a thread, with a record of how long the step had to wait for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgessl.data.source import Source, epoch_order
from edgessl.device.noise import step_noise

AHEAD = 2  # batches read while one is computed on


@dataclass(frozen=True)
class Portion:
    """What step `t` takes: this process's samples `(n, *shape)` and their noise, and the joined batch's indices."""

    t: int
    samples: Tensor
    noise: Tensor
    indices: np.ndarray[Any, np.dtype[np.int64]]


class Reader:
    """Reads the batches of a run; order and noise are functions of (seed, step).

    Args:
        source: the data.
        seed: of the order and the noise.
        noise_shape: `(batch_size, width)` of the joined batch's noise.
        rows: the joined batch's rows that this process takes.
        device: where the batches go; for a GPU they are put in pinned memory, from which it copies while it computes.

    Attributes:
        waited: seconds the caller has waited for batches, the first of each `batches` call left out.
        reading: seconds the thread has spent on reading.
    """

    def __init__(
        self, source: Source, seed: int, noise_shape: tuple[int, int], rows: slice, device: torch.device
    ) -> None:
        self._source, self._seed, self._noise_shape = source, seed, noise_shape
        self._rows, self._device = rows, device
        self._per_epoch = len(source) // noise_shape[0]
        self.waited = 0.0
        self.reading = 0.0

    def batches(self, first: int, last: int) -> Iterator[Portion]:
        """The portions of steps `first` to `last`."""
        with ThreadPoolExecutor(1, initializer=self._settle) as thread:
            ahead: deque[Future[Portion]] = deque()
            for t in range(first, last):
                while len(ahead) <= AHEAD and t + len(ahead) < last:
                    ahead.append(thread.submit(self._read, t + len(ahead)))
                began = time.perf_counter()
                portion = ahead.popleft().result()
                self.waited += time.perf_counter() - began if t > first else 0.0
                yield portion

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # per thread; else pinning would open a context on the first GPU

    def _read(self, t: int) -> Portion:
        began = time.perf_counter()
        size = self._noise_shape[0]
        start = (t % self._per_epoch) * size
        indices = epoch_order(len(self._source), self._seed, t // self._per_epoch)[start : start + size]
        samples = torch.from_numpy(self._source.take(indices[self._rows]))
        noise = torch.from_numpy(step_noise(self._seed, t, self._noise_shape)[self._rows])
        if self._device.type == "cuda":
            samples, noise = samples.pin_memory(), noise.pin_memory()
        self.reading += time.perf_counter() - began
        return Portion(t, samples, noise, indices)
