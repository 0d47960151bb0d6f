"""A bounded replay memory: the latest samples, and what a policy keeps of everything before them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.device.memory.codec import Codec, RawCodec
from edgessl.device.memory.embedded import directions
from edgessl.device.memory.policy import build_policy, row_bytes
from edgessl.device.noise import REPLAY, SLEEP, stream
from edgessl.device.storage.tensors import Array
from edgessl.errors import BudgetError, InputError, StateMismatchError

Float = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """Copies of remembered samples.

    `samples` (n, *shape): the first `recent` rows from the ring of the latest, the others older ones;
    `stored` (n, D): their embeddings when they were observed, None unless the memory keeps them; `places`,
    `numbers` (n,): where they lay and which they were (from 0, in the order of arrival).
    """

    samples: Float
    stored: Float | None
    recent: int
    places: Places
    numbers: Places


class ReplayMemory:
    """Samples within `capacity_bytes`, allocated once as equal slots.

    Places [0, ring) hold the latest quarter of the capacity; a sample that leaves them goes to the place among the
    others that the policy chooses, or is dropped. A sample never moves: its slot changes place, and the newcomer is
    written to the slot that became free, one write a sample. Draws and policies depend on (seed, counts) and the
    embeddings only: adding one by one or in batches gives the same memory, and nothing of a generator needs saving.

    Of equal samples in a row, as a stuck sensor gives them, REPEATS are remembered; the others are counted
    (`repeated`), lest they replace the past.

    `policy`: one of memory.policy.POLICIES; "recent" has the ring alone. `codec`: how samples are stored.
    `embedding_dim`: D, for policies that look at embeddings. `stored_dim`: D, to keep every sample's embedding as it
    was observed; 0 keeps none. The budget covers samples, stored embeddings and the policy's; 16 bytes of
    bookkeeping a sample come on top.

    Raises BudgetError, which says the minimum, when fewer than `least` (>= 2) samples fit.
    """

    REPEATS = 8

    def __init__(
        self,
        capacity_bytes: int,
        sample_shape: tuple[int, ...],
        *,
        policy: str = "reservoir",
        codec: Codec | None = None,
        embedding_dim: int = 0,
        stored_dim: int = 0,
        seed: int = 0,
        least: int = 2,
    ) -> None:
        self._codec = codec or RawCodec()
        kept = row_bytes(policy, embedding_dim)
        size = self._codec.dtype.itemsize * math.prod(sample_shape) + 4 * stored_dim + kept
        capacity, least = capacity_bytes // size, max(least, 2)
        share = 4 if policy == "recent" else 1  # the ring alone must hold them
        if capacity < share * least:
            raise BudgetError(
                f"replay memory: {capacity_bytes} bytes hold {max(capacity, 0)} samples of {size} bytes; "
                f"at least {share * least} are needed: give {share * least * size} bytes or more"
            )
        ring = max(1, capacity // 4)
        capacity = ring if policy == "recent" else capacity
        self.seed, self.seen = seed, 0
        self.saturated = 0  # values the codec could not hold
        self.repeated = self._run = 0  # samples passed over; how many in a row were equal to the latest
        self._ring, self._size = ring, size
        self._policy = build_policy(policy, capacity - ring, embedding_dim, seed)
        self._kind = f"{policy}, {self._codec.name}, {stored_dim} numbers stored"
        self._slots: Array = np.zeros((capacity, *sample_shape), self._codec.dtype)
        self._stored: Float = np.zeros((capacity, stored_dim), np.float32)
        self._fresh: npt.NDArray[np.float16] = np.zeros((ring, kept // 2), np.float16)  # the ring's, for the policy
        self._place = np.arange(capacity)  # the slot of each place
        self._number = np.full(capacity, -1, np.int64)  # by place; -1: empty

    @property
    def capacity(self) -> int:
        """Samples that fit."""
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for samples and embeddings; never more than was declared."""
        return self.capacity * self._size

    def __len__(self) -> int:
        return sum(self._held())

    @property
    def older(self) -> int:
        """Samples held that are older than the ring."""
        return self._held()[1]

    def _held(self) -> tuple[int, int]:
        """How many samples lie in the ring, and elsewhere."""
        older = max(0, self.seen - self._ring)
        return min(self.seen, self._ring), min(older, self.capacity - self._ring)

    def add(self, batch: Float, z: Float | None = None) -> None:
        """Remember samples (N, *sample_shape), the oldest first; `z` (N, D): their embeddings, where any are kept."""
        wanted, shape = self._slots.shape[1:], f"float32[N, {', '.join(map(str, self._slots.shape[1:]))}]"
        if batch.shape[1:] != wanted or batch.dtype != np.float32:
            raise InputError(f"replay memory: expected {shape}, found {batch.dtype}{list(batch.shape)}")
        dim = self._stored.shape[1] or self._fresh.shape[1]
        if dim and (z is None or z.shape != (len(batch), dim)):
            found = "none" if z is None else list(z.shape)
            raise InputError(f"replay memory: expected embeddings {[len(batch), dim]}, found {found}")
        encoded, beyond = self._codec.encode(batch)
        self.saturated += beyond
        for i, sample in enumerate(encoded):
            latest = self._slots[self._place[(self.seen - 1) % self._ring]] if self.seen else None
            self._run = self._run + 1 if latest is not None and np.array_equal(sample, latest) else 0
            if self._run < self.REPEATS:
                self._add(sample, None if z is None or not dim else z[i])
            else:
                self.repeated += 1

    def _add(self, sample: Array, z: Float | None) -> None:
        place, leaving = self.seen % self._ring, self.seen - self._ring
        if leaving >= 0:
            row = self._fresh[place].astype(np.float32) if self._policy.row_bytes else None
            chosen = self._policy.choose(leaving, row)
            if chosen >= 0:
                older = self._ring + chosen
                self._place[[place, older]] = self._place[[older, place]]
                self._number[older] = leaving
        slot = self._place[place]
        self._slots[slot], self._number[place] = sample, self.seen
        if z is not None and self._stored.shape[1]:
            self._stored[slot] = z
        if z is not None and self._policy.row_bytes:
            self._fresh[place] = directions(z[None])[0]
        self.seen += 1

    def sample(self, n: int, t: int) -> Draw:
        """A batch of `n` for draw number `t`: half recent, half older, recent ones first.

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
            rows = np.concatenate([rows[rows < recent], rows[rows >= recent]])
        return self._draw(np.where(rows < recent, rows, rows - recent + self._ring))

    def sample_older(self, n: int, t: int) -> Draw:
        """A batch of `n` for draw number `t` of samples older than the ring only, as for replay during sleep.

        Without replacement while there are `n`. Raises InputError when there are none.
        """
        older = self._held()[1]
        if n < 1 or older == 0:
            raise InputError(f"replay memory: cannot draw {n} samples from {older} older than the ring")
        rng = stream(self.seed, SLEEP, t)
        rows = rng.choice(older, min(n, older), replace=False)
        rows = np.concatenate([rows, rng.choice(older, n - len(rows))])
        return self._draw(self._ring + rows)

    def _draw(self, places: Places) -> Draw:
        slots = self._place[places]
        stored = self._stored[slots] if self._stored.shape[1] else None
        samples, recent = self._codec.decode(self._slots[slots]), int(np.count_nonzero(places < self._ring))
        return Draw(samples, stored, recent, places, self._number[places])

    def refresh(self, draw: Draw, z: Float) -> None:
        """Tell the policy the embeddings `z` (n, D) of `draw` by the present encoder.

        Samples that have left their place since they were drawn are passed over, and so are those in the ring.
        """
        still = (draw.places >= self._ring) & (self._number[draw.places] == draw.numbers)
        places, first = np.unique(draw.places[still], return_index=True)
        if len(places) and self._policy.row_bytes:
            self._policy.refresh(places - self._ring, z[still][first])

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs, as views of the filled part."""
        n = len(self)  # slots are taken in order
        return {
            "slots": self._slots[:n],
            "stored": self._stored[:n],
            "fresh": self._fresh,
            "place": self._place,
            "number": self._number,
            "counts": np.array(
                [self.seen, self.capacity, self.seed, self.saturated, self.repeated, self._run], np.int64
            ),
            "kind": np.frombuffer(self._kind.encode(), np.uint8),
            **{f"policy.{name}": array for name, array in self._policy.tensors().items()},
        }

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described; StateMismatchError when settings or shapes differ."""
        seen, capacity, seed, saturated, repeated, run = (int(v) for v in tensors["counts"])
        kind = tensors["kind"].tobytes().decode()
        if (capacity, seed, kind) != (self.capacity, self.seed, self._kind):
            raise StateMismatchError(
                f"replay memory was saved with room for {capacity} samples ({kind}) and seed {seed}, this one "
                f"has room for {self.capacity} ({self._kind}) and seed {self.seed}; use the settings it was saved with"
            )
        n = min(seen, self.capacity)
        targets = {"slots": self._slots[:n], "stored": self._stored[:n], "fresh": self._fresh}
        targets |= {"place": self._place, "number": self._number}
        for name, target in targets.items():
            found = tensors[name]
            if found.shape != target.shape or found.dtype != target.dtype:
                raise StateMismatchError(
                    f"replay memory {name}: expected {target.dtype}{list(target.shape)}, "
                    f"found {found.dtype}{list(found.shape)}"
                )
        for name, target in targets.items():
            target[...] = tensors[name]
        self.seen, self.saturated, self.repeated, self._run = seen, saturated, repeated, run
        prefix = "policy."
        self._policy.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
