"""Learned state on disk: two slots, written in turn, so that no instant of power loss can take both.

The file format is specified in docs/bundle.md.
"""

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgessl.device import tensors as tensorfile
from edgessl.device.tensors import Array
from edgessl.errors import FormatError, StateError, StateLockedError, StateMismatchError

MAGIC = b"EDGESTAT"
VERSION = 1
HEADER = struct.Struct("<8sIIQ32sQ")  # magic, version, 0, generation, bundle digest, payload length
CHECKSUM_BYTES = 32  # SHA-256 of header and payload, between the two
SLOTS = ("state.0", "state.1")
TEMPORARY = "state.tmp"
LOCK = "lock"


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

    def part(self, name: str) -> dict[str, Array]:
        """The tensors called `name`.something, by that something."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


class StateStore:
    """The state directory of one bundle, held exclusively from here to `close()`.

    `digest`: hex SHA-256 that names the bundle. `problems` lists what was wrong with slots at the last load.
    Raises StateLockedError when another process or learner holds the directory, StateError when it cannot
    be made or read.
    """

    def __init__(self, directory: str | os.PathLike[str], digest: str) -> None:
        self.directory = Path(directory)
        self.digest = digest
        self.problems: list[str] = []
        self.generation = 0  # of the newest valid slot; 0: nothing saved
        self._newest: str | None = None
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                _sync(self.directory.parent)
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

    def load(self) -> Saved | None:
        """The newest valid generation, None when nothing was ever saved.

        A damaged slot is passed over and described in `problems`. Raises StateMismatchError when the state is
        another bundle's, StateError when there are slots and none is valid.
        """
        return self._scan()

    def _scan(self) -> Saved | None:
        self.problems = []
        best, foreign, newest = None, None, None
        for slot in SLOTS:
            try:
                data = (self.directory / slot).read_bytes()
                saved, digest = decode(data)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failed(f"slot {slot} cannot be read", error) from None
            except FormatError as error:
                self.problems.append(f"{slot}: {error}")
                continue
            if digest != self.digest:
                foreign = digest
            elif best is None or saved.generation > best.generation:
                best, newest = saved, slot
        if foreign is not None:
            raise StateMismatchError(
                f"{self.directory}: this state belongs to bundle {foreign[:12]}, not to {self.digest[:12]}; "
                "open that bundle, or give this one a directory of its own"
            )
        if best is None and self.problems:
            raise StateError(
                f"{self.directory}: no slot is intact ({'; '.join(self.problems)}); nothing was changed. "
                "Restore the files from a backup, or remove them to start again from the factory state"
            )
        self.generation, self._newest = (best.generation, newest) if best else (0, None)
        return best

    def save(self, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> int:
        """Write the next generation over the older slot and return its number, once it is safely on disk.

        Raises StateError when the disk refuses (full, read-only, failing); the newest generation is intact.
        """
        generation = self.generation + 1
        target = SLOTS[1] if self._newest == SLOTS[0] else SLOTS[0]
        temporary = self.directory / TEMPORARY
        payload = tensorfile.pieces(arrays, metadata)
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                for piece in encode(generation, self.digest, payload):
                    _write(file, piece)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, self.directory / target)
            _sync(self.directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._failed(f"generation {generation} cannot be saved", error) from None
        self.generation, self._newest = generation, target
        return generation

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _failed(self, what: str, error: OSError) -> StateError:
        return StateError(f"{self.directory}: {what}: {error.strerror or error}; what was saved before is untouched")


def encode(generation: int, digest: str, payload: list[memoryview]) -> list[bytes | memoryview]:
    """A slot file in consecutive parts."""
    length = sum(len(p) for p in payload)
    header = HEADER.pack(MAGIC, VERSION, 0, generation, bytes.fromhex(digest), length)
    return [header, _checksum(header, *payload), *payload]


def decode(data: bytes) -> tuple[Saved, str]:
    """What a slot file holds and the digest of its bundle; FormatError when a single bit is wrong."""
    start = HEADER.size + CHECKSUM_BYTES
    if len(data) < start:
        raise FormatError(f"truncated: {len(data)} bytes, the header alone takes {start}")
    header, payload = data[: HEADER.size], memoryview(data)[start:]
    magic, version, reserved, generation, digest, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise FormatError("not a state file (wrong magic)")
    if (version, reserved) != (VERSION, 0):
        raise FormatError(f"version {version}.{reserved} is not supported; this edgessl reads {VERSION}.0")
    if length != len(payload):
        raise FormatError(f"{len(payload)} bytes of payload, the header says {length}")
    if _checksum(header, payload) != data[HEADER.size : start]:
        raise FormatError("checksum is wrong")
    return Saved(generation, *tensorfile.loads(payload)), digest.hex()


def _checksum(*parts: bytes | memoryview) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.digest()


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _write(file: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
