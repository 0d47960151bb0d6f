"""A bounded replay memory: the latest samples, and a fair sample of everything before them."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgessl.device.noise import REPLAY, RESERVOIR, stream
from edgessl.device.tensors import Array
from edgessl.errors import BudgetError, InputError, StateMismatchError

Float = npt.NDArray[np.float32]


class ReplayMemory:
    """Raw float32 samples within `capacity_bytes`, allocated once.

    A ring holds the latest quarter of the capacity. A sample that leaves the ring enters a reservoir
    (algorithm R of Vitter, "Random sampling with a reservoir", 1985), so that every sample older than the
    ring has the same chance to be held and none is held twice. Draws depend on (seed, counts) only: adding
    one by one or in batches gives the same memory, and nothing of a generator needs saving.

    Raises BudgetError, which says the minimum, when fewer than `least` (>= 2) samples fit.
    """

    def __init__(self, capacity_bytes: int, sample_shape: tuple[int, ...], seed: int = 0, least: int = 2) -> None:
        size = 4 * math.prod(sample_shape)
        capacity, least = capacity_bytes // size, max(least, 2)
        if capacity < least:
            raise BudgetError(
                f"replay memory: {capacity_bytes} bytes hold {max(capacity, 0)} samples of {size} bytes; "
                f"at least {least} are needed: give {least * size} bytes or more"
            )
        self.seed, self.seen = seed, 0
        ring = max(1, capacity // 4)
        self._ring: Float = np.zeros((ring, *sample_shape), np.float32)
        self._reservoir: Float = np.zeros((capacity - ring, *sample_shape), np.float32)

    @property
    def capacity(self) -> int:
        """Samples that fit."""
        return len(self._ring) + len(self._reservoir)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for samples; never more than was declared."""
        return self._ring.nbytes + self._reservoir.nbytes

    def __len__(self) -> int:
        return sum(self._held())

    def _held(self) -> tuple[int, int]:
        """How many samples lie in the ring and in the reservoir."""
        older = max(0, self.seen - len(self._ring))
        return min(self.seen, len(self._ring)), min(older, len(self._reservoir))

    def add(self, batch: Float) -> None:
        """Remember samples (N, *sample_shape), the oldest first."""
        if batch.shape[1:] != self._ring.shape[1:] or batch.dtype != np.float32:
            wanted = f"float32[N, {', '.join(map(str, self._ring.shape[1:]))}]"
            raise InputError(f"replay memory: expected {wanted}, found {batch.dtype}{list(batch.shape)}")
        for sample in batch:
            place = self.seen % len(self._ring)
            older = self.seen - len(self._ring)  # the index of the sample that leaves the ring
            if older >= 0:
                self._retire(self._ring[place], older)
            self._ring[place] = sample
            self.seen += 1

    def _retire(self, sample: Float, index: int) -> None:
        size = len(self._reservoir)
        place = index if index < size else int(stream(self.seed, RESERVOIR, index).integers(index + 1))
        if place < size:
            self._reservoir[place] = sample

    def sample(self, n: int, t: int) -> Float:
        """A batch (n, *sample_shape) for draw number `t`: half recent, half from the reservoir.

        Without replacement; where one half is short the other fills in, and only when all of the memory is
        smaller than `n` do samples repeat. Raises InputError when it is empty.
        """
        recent, older = self._held()
        if n < 1 or recent == 0:
            raise InputError(f"replay memory: cannot draw {n} samples from {len(self)}")
        rng = stream(self.seed, REPLAY, t)
        from_older = min(older, max(n // 2, n - recent))
        from_recent = min(recent, n - from_older)
        rows = np.concatenate(
            [
                rng.choice(recent, from_recent, replace=False),
                recent + rng.choice(older, from_older, replace=False) if older else np.empty(0, np.int64),
            ]
        )
        if len(rows) < n:
            rows = np.concatenate([rows, rng.choice(recent + older, n - len(rows))])
        out = np.empty((n, *self._ring.shape[1:]), np.float32)
        in_ring = rows < recent
        out[in_ring] = self._ring[rows[in_ring]]
        out[~in_ring] = self._reservoir[rows[~in_ring] - recent]
        return out

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs, as views of the filled part."""
        recent, older = self._held()
        counts = np.array([self.seen, self.capacity, self.seed], np.int64)
        return {"ring": self._ring[:recent], "reservoir": self._reservoir[:older], "counts": counts}

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described; StateMismatchError when capacity, seed or shapes differ."""
        seen, capacity, seed = (int(v) for v in tensors["counts"])
        if (capacity, seed) != (self.capacity, self.seed):
            raise StateMismatchError(
                f"replay memory was saved with room for {capacity} samples and seed {seed}, this one "
                f"has room for {self.capacity} and seed {self.seed}; use the settings it was saved with"
            )
        before, self.seen = self.seen, seen
        recent, older = self._held()
        for name, target, count in (("ring", self._ring, recent), ("reservoir", self._reservoir, older)):
            found = tensors[name]
            if found.shape != (count, *target.shape[1:]) or found.dtype != np.float32:
                self.seen = before
                wanted = f"float32{[count, *target.shape[1:]]}"
                raise StateMismatchError(
                    f"replay memory {name}: expected {wanted}, found {found.dtype}{list(found.shape)}"
                )
        self._ring[:recent] = tensors["ring"]
        self._reservoir[:older] = tensors["reservoir"]
