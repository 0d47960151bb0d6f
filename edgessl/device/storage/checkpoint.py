"""A learner's save and load: remembered samples go into the journal as they change, everything else into a slot."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgessl.device.storage.journal import Bytes, DamagedJournalError, Journal, Rows, mark_of
from edgessl.device.storage.state import Saved, StateStore
from edgessl.device.storage.tensors import Array
from edgessl.errors import StateError

ROWS = ("memory.slots", "memory.stored")  # (n, *shape), (n, D): what the journal holds; the slot keeps n = 0 of them
COPIED = "slot."  # a learner gives copies of these; the rest are views that go on changing


@dataclass(frozen=True)
class Pending:
    """What a save will write, taken in a moment under the learner's lock."""

    arrays: dict[str, Array]
    metadata: dict[str, str]
    trial: bool
    rows: Rows
    data: Bytes
    versions: Rows


class Checkpoint:
    """The state directory of one learner. `prepare` is quick and needs its lock, `write` waits for the disk.

    The memory's tensors `place` and `number` (see memory.ReplayMemory) tell which sample lies in which slot, and so
    which slots changed since the last save.
    """

    def __init__(self, directory: str | os.PathLike[str], digest: str, key: bytes | None = None) -> None:
        self.store = StateStore(directory, digest, key)
        self._journal: Journal | None = None
        self._versions: Rows = np.zeros(0, np.int64)  # the sample in each slot, as the journal has it

    @property
    def written(self) -> int:
        """Bytes that saves have written since the directory was opened."""
        return self.store.written + (self._journal.written if self._journal else 0)

    @property
    def bound_bytes(self) -> int:
        """What the directory may take on disk at any instant: three journals, three slots; 0 before the first save."""
        return self._journal.bound_bytes + 3 * self.store.slot_bytes if self._journal else 0

    def load(self) -> Saved | None:
        """The newest generation with the remembered samples it had; see StateStore.load.

        Where records of the journal are damaged, what was learned is kept, and slots whose sample cannot be read
        get copies of those that can; without any, there are no `memory.` tensors. `store.problems` says how many.
        """
        saved = self.store.load()
        mark = mark_of(saved.metadata) if saved else None
        if saved is None or mark is None:
            return saved
        tensors = saved.tensors
        versions = _versions(tensors)
        count = int(np.count_nonzero(versions >= 0))
        self._journal = self._open(tensors)
        self._versions = versions
        data = np.zeros((min(count, mark.records), self._journal.row_bytes), np.uint8)
        try:
            if len(data) < count:
                raise DamagedJournalError(f"{count} samples in {mark.records} records", np.zeros(0, np.int64))
            self._journal.read(mark, data)
        except DamagedJournalError as error:
            lost = f"{count - len(error.rows)} of {count} remembered samples are lost"
            self.store.problems.append(f"{error}; {lost}, what was learned is not")
            if len(error.rows) == 0:
                return replace(saved, tensors={k: v for k, v in tensors.items() if not k.startswith("memory.")})
            missing = np.setdiff1d(np.arange(count), error.rows)
            data[missing] = data[np.resize(error.rows, len(missing))]
        split, place = {}, 0
        for name in ROWS:
            empty = tensors[name]
            width = empty.dtype.itemsize * int(np.prod(empty.shape[1:]))
            part = np.ascontiguousarray(data[:, place : place + width])
            split[name] = np.frombuffer(part, empty.dtype).reshape(count, *empty.shape[1:])
            place += width
        return replace(saved, tensors={**tensors, **split})

    def prepare(self, arrays: Mapping[str, Array], metadata: Mapping[str, str], trial: bool) -> Pending:
        """Copies of what a save needs; of the remembered samples only those that changed."""
        versions = _versions(arrays)
        if self._journal is None:
            self._journal = self._open(arrays)
        there = versions >= 0
        changed = there if self._journal.broken else there & (versions != self._versions)
        rows = np.flatnonzero(changed)
        data = np.concatenate([_bytes(arrays[name][rows]) for name in ROWS], axis=1)
        kept = {k: v if k.startswith(COPIED) else np.array(v) for k, v in arrays.items() if k not in ROWS}
        kept |= {name: arrays[name][:0] for name in ROWS}
        return Pending(kept, dict(metadata), trial, rows, data, versions)

    def write(self, pending: Pending) -> int:
        """Put it safely on disk and return its generation; StateError when the disk refuses."""
        assert self._journal is not None, "prepare comes first"
        try:
            mark = self._journal.append(pending.rows, pending.data)
        except OSError as error:
            raise StateError(
                f"{self.store.directory}: the replay memory cannot be saved: {error.strerror or error}; "
                "what was saved before is untouched"
            ) from None
        self._versions = pending.versions
        generation = self.store.save(
            pending.arrays, {**pending.metadata, "journal": mark.to_json()}, trial=pending.trial
        )
        self._journal.settled(self.store.epochs)
        return generation

    def _open(self, tensors: Mapping[str, Array]) -> Journal:
        width = sum(tensors[k].dtype.itemsize * int(np.prod(tensors[k].shape[1:])) for k in ROWS)
        return Journal(self.store.directory, self.store.digest, len(tensors["memory.place"]), width)


def _versions(tensors: Mapping[str, Array]) -> Rows:
    """(capacity,): the number of the sample in each slot, -1 where it is empty."""
    place, number = tensors["memory.place"], tensors["memory.number"]
    versions = np.full(len(place), -1, np.int64)
    versions[place] = number
    return versions


def _bytes(rows: Array) -> Bytes:
    flat = np.ascontiguousarray(rows).reshape(len(rows), int(np.prod(rows.shape[1:])))
    return flat.view(np.uint8) if flat.size else np.zeros((len(rows), 0), np.uint8)
