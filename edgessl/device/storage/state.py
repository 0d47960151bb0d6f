"""Learned state on disk: two slots, written in turn, so that no instant of power loss can take both.

A generation may be saved on trial: the next open runs it once, and unless it is marked good, the open after that
returns to the last good one. With a device key, only what a holder of that key wrote is read. The file format is
specified in docs/bundle.md.
"""

import fcntl
import hashlib
import hmac
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgessl.device.storage import tensors as tensorfile
from edgessl.device.storage.files import replace_file, sync_directory
from edgessl.device.storage.journal import Mark, mark_of
from edgessl.device.storage.tensors import Array
from edgessl.errors import FormatError, StateError, StateLockedError, StateMismatchError

MAGIC = b"EDGESTAT"
VERSION = 1
HEADER = struct.Struct("<8sIIQ32sQ")  # magic, version, key number or 0, generation, bundle digest, payload length
CHECKSUM_BYTES = 32  # SHA-256 of header and payload, or their HMAC-SHA256, between the two
LEAST_KEY_BYTES = 16
SLOTS = ("state.0", "state.1")
TEMPORARY = "state.tmp"
LOCK = "lock"
TRIED = "tried"  # + .GENERATION: a generation on trial has had its one open


class Checkpointed(Protocol):
    """A part of the learner that goes into a checkpoint."""

    def tensors(self) -> dict[str, Array]:
        """What a checkpoint needs."""

    def restore(self, tensors: Mapping[str, Array]) -> None:
        """Become what `tensors()` described."""


@dataclass(frozen=True)
class Saved:
    """A generation read back from disk."""

    generation: int
    tensors: dict[str, Array]
    metadata: dict[str, str]

    @property
    def on_trial(self) -> bool:
        """Whether it was saved on trial."""
        return "trial" in self.metadata

    def part(self, name: str) -> dict[str, Array]:
        """The tensors called `name`.something, by that something."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


class StateStore:
    """The state directory of one bundle, held exclusively from here to `close()`.

    `digest`: hex SHA-256 that names the bundle; `key`: the device's secret, 16 bytes or more, see devicekey.
    `problems` lists what was wrong with slots at the last load. Raises StateLockedError when another process or
    learner holds the directory, StateError when it cannot be made or read, or when no slot is intact.
    """

    def __init__(self, directory: str | os.PathLike[str], digest: str, key: bytes | None = None) -> None:
        if key is not None and len(key) < LEAST_KEY_BYTES:
            raise StateError(f"device key of {len(key)} bytes; at least {LEAST_KEY_BYTES} are needed, better 32")
        self.directory, self.digest, self._key = Path(directory), digest, key
        self.problems: list[str] = []
        self.generation = 0  # of the newest valid slot; 0: nothing saved
        self.written = self.slot_bytes = 0  # bytes, by this process: of all saves, of the last
        self._good: str | None = None  # slot of the newest generation that is not on trial
        self._marks: dict[str, Mark | None] = {}
        self._trial: str | None = None  # while on trial: how many opens what is saved may still have, 1 or 0
        self._own_trial = 0  # generation on trial that this process saved or has begun to run
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                sync_directory(self.directory.parent)
            self._lock = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed("cannot be opened", error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scan()
        except BlockingIOError:
            os.close(self._lock)
            raise StateLockedError(
                f"{self.directory}: another process or learner holds this state; close it or use another directory"
            ) from None
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def epochs(self) -> set[int]:
        """Epochs of the journals that the slots on disk need."""
        return {mark.epoch for mark in self._marks.values() if mark is not None}

    def load(self) -> Saved | None:
        """The newest valid generation, None when nothing was ever saved (or only an unproven trial is left).

        One on trial has one open after the process that saved it; then it is passed over, as damaged slots are; both
        are described in `problems`. Raises StateMismatchError when the state is another bundle's, StateError when
        there are slots and none is valid, or the disk refuses.
        """
        saved = next(iter(self._scan()), None)
        if saved is not None and saved.on_trial and saved.generation != self._own_trial:
            self._end_trial(saved.generation)
            self._trial, self._own_trial = "0", saved.generation
        return saved

    def back(self) -> Saved | None:
        """The generation to return to when learning did harm: the newest good one; a trial is over."""
        if self._trial is not None:
            self._end_trial(self.generation)
            self._trial, self._own_trial = None, 0
        return next((saved for saved in self._scan() if not saved.on_trial), None)

    def mark_good(self) -> int:
        """End the trial well: save its newest generation again, as good; returns the generation that is good now."""
        newest = next(iter(self._scan()), None)
        if self._trial is None or newest is None:
            return self.generation
        before, self._trial = self._trial, None
        try:
            return self.save(newest.tensors, {k: v for k, v in newest.metadata.items() if k != "trial"})
        except StateError:
            self._trial = before
            raise

    def _end_trial(self, generation: int) -> None:
        """Note that the trial of `generation` must not be opened again."""
        try:
            os.close(os.open(self._tried(generation), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(self.directory)
        except OSError as error:
            raise self._failed(f"the trial of generation {generation} cannot be noted", error) from None

    def _scan(self) -> list[Saved]:
        """Usable generations, the newest first."""
        self.problems, self._marks, self._good = [], {}, None
        found: list[tuple[Saved, str]] = []
        foreign = None
        for slot in SLOTS:
            try:
                saved, digest = decode((self.directory / slot).read_bytes(), self._key)
                mark = mark_of(saved.metadata)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failed(f"slot {slot} cannot be read", error) from None
            except FormatError as error:
                self.problems.append(f"{slot}: {error}")
                continue
            if digest != self.digest:
                foreign = digest
            else:
                found.append((saved, slot))
                self._marks[slot] = mark
        if foreign is not None:
            raise StateMismatchError(
                f"{self.directory}: this state belongs to bundle {foreign[:12]}, not to {self.digest[:12]}; "
                "open that bundle, or give this one a directory of its own"
            )
        if not found and self.problems:
            raise StateError(
                f"{self.directory}: no slot is intact ({'; '.join(self.problems)}); nothing was changed. "
                "Restore the files from a backup, or remove them to start again from the factory state"
            )
        found.sort(key=lambda pair: -pair[0].generation)
        self.generation = max((saved.generation for saved, _ in found), default=0)
        self._good = next((slot for saved, slot in found if not saved.on_trial), None)
        usable = []
        for saved, slot in found:
            over = saved.metadata.get("trial") != "1" or self._tried(saved.generation).exists()
            if saved.on_trial and saved.generation != self._own_trial and over:
                back = "the last good generation" if self._good else "the factory state"
                self.problems.append(f"{slot}: generation {saved.generation} was never marked good; back to {back}")
            else:
                usable.append(saved)
        return usable

    def _tried(self, generation: int) -> Path:
        return self.directory / f"{TRIED}.{generation}"

    def save(
        self, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, trial: bool = False
    ) -> int:
        """Write the next generation over the slot that does not hold the last good one; returns its number.

        Once it returns, the generation is safely on disk. With `trial`, this and what is saved after it stays on
        trial until `mark_good`. Raises StateError when the disk refuses (full,
        read-only, failing); what was saved before is intact.
        """
        generation = self.generation + 1
        target = SLOTS[1] if self._good == SLOTS[0] else SLOTS[0]
        trying = self._trial or ("1" if trial else None)
        metadata = {**(metadata or {}), **({"trial": trying} if trying else {})}
        mark = mark_of(metadata)
        parts = encode(generation, self.digest, tensorfile.pieces(arrays, metadata), self._key)
        try:
            replace_file(self.directory / target, self.directory / TEMPORARY, parts, 0o600)
        except OSError as error:
            raise self._failed(f"generation {generation} cannot be saved", error) from None
        self.slot_bytes = sum(len(part) for part in parts)
        self.written += self.slot_bytes
        self.generation, self._marks[target] = generation, mark
        self._trial = trying
        if trying:
            self._own_trial = generation
        else:
            self._good = target
        for path in self.directory.glob(f"{TRIED}.*"):  # of generations that are gone, or good now
            path.unlink(missing_ok=True)
        return generation

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _failed(self, what: str, error: OSError) -> StateError:
        return StateError(f"{self.directory}: {what}: {error.strerror or error}; what was saved before is untouched")


def encode(
    generation: int, digest: str, payload: list[memoryview], key: bytes | None = None
) -> list[bytes | memoryview]:
    """A slot file in consecutive parts, authenticated with `key` if there is one."""
    length = sum(len(p) for p in payload)
    header = HEADER.pack(MAGIC, VERSION, key_number(key), generation, bytes.fromhex(digest), length)
    return [header, _checksum(key, header, *payload), *payload]


def decode(data: bytes, key: bytes | None = None) -> tuple[Saved, str]:
    """What a slot file holds and the digest of its bundle; FormatError when a single bit or the key is wrong."""
    start = HEADER.size + CHECKSUM_BYTES
    if len(data) < start:
        raise FormatError(f"truncated: {len(data)} bytes, the header alone takes {start}")
    header, payload = data[: HEADER.size], memoryview(data)[start:]
    magic, version, number, generation, digest, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise FormatError("not a state file (wrong magic)")
    if version != VERSION:
        raise FormatError(f"version {version} is not supported; this edgessl reads {VERSION}")
    if number != key_number(key):
        wanted = "no device key" if key is None else "this device key"
        has = "authenticated with another one" if number else "not authenticated with any"
        raise FormatError(f"{wanted} was given, and the state is {has}")
    if length != len(payload):
        raise FormatError(f"{len(payload)} bytes of payload, the header says {length}")
    if not hmac.compare_digest(_checksum(key, header, payload), data[HEADER.size : start]):
        raise FormatError("checksum is wrong" if key is None else "authentication failed: damaged or forged")
    return Saved(generation, *tensorfile.loads(payload)), digest.hex()


def key_number(key: bytes | None) -> int:
    """What a slot's header says about its key: 0 for none, else 32 bits that tell keys apart and reveal neither."""
    if key is None:
        return 0
    return int.from_bytes(hmac.digest(key, b"edgessl device key", "sha256")[:4], "little") | 1


def _checksum(key: bytes | None, *parts: bytes | memoryview) -> bytes:
    total = hashlib.sha256() if key is None else hmac.new(key, digestmod="sha256")
    for part in parts:
        total.update(part)
    return total.digest()
