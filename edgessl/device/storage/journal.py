"""The replay memory on disk: an append-only file of checksummed records, so that a save costs what changed.

A record says "row i is now this". The file format is specified in docs/bundle.md.
"""

import errno
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgessl.device.storage import strictjson
from edgessl.device.storage.files import replace_file, write_all
from edgessl.errors import FormatError

MAGIC = b"EDGEJRNL"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, bytes of a row, rows, epoch, bundle digest
RECORD = struct.Struct("<II")  # row number, CRC-32 of (epoch, place of the record, row number, row)
CONTEXT = struct.Struct("<QQI")
TEMPORARY = "memory.tmp"
MAX_ROW_BYTES = 1 << 26
MAX_ROWS = 1 << 32
READ_BYTES = 1 << 18  # read at a time

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mark:
    """How much of which journal belongs to a generation; it lies in the state slot, whose checksum covers it.

    `sha256`: hex, of the journal's header and its first `records` records.
    """

    epoch: int
    records: int
    sha256: str

    def to_json(self) -> str:
        """The slot's metadata entry `journal`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Mark":
        """Read what `to_json` wrote; FormatError when it is anything else."""
        try:
            node = strictjson.Node(strictjson.parse(text.encode()), "journal", FormatError)
        except ValueError as error:
            raise FormatError(f"journal: {error}") from None
        node.object("epoch", "records", "sha256")
        sha256 = node.key("sha256").text(64)
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            node.key("sha256").fail("expected 64 lowercase hex digits")
        return cls(node.key("epoch").integer(1, 1 << 62), node.key("records").integer(0, 1 << 62), sha256)


class Journal:
    """Rows of a fixed size, kept in the file `memory.EPOCH` of a state directory.

    `rows` of `row_bytes` each; `digest`: hex SHA-256 that names the bundle. `append` makes changed rows safe and
    returns the mark for the slot that is saved next; `read` gives back the rows of a mark. When a file would pass
    `limit_bytes` (twice the rows), the next epoch starts with one record per row. Two slots may need two epochs,
    and a third is there while it is written: all files together never pass `bound_bytes`.
    """

    def __init__(self, directory: Path, digest: str, rows: int, row_bytes: int) -> None:
        if not 0 < row_bytes <= MAX_ROW_BYTES or not 0 < rows <= MAX_ROWS:
            raise FormatError(f"journal of {rows} rows of {row_bytes} bytes; at most {MAX_ROWS} of {MAX_ROW_BYTES}")
        self.directory, self.rows, self.row_bytes = directory, rows, row_bytes
        self.written = 0  # bytes, by this process
        self._digest = bytes.fromhex(digest)
        self._record = RECORD.size + row_bytes
        self._start_epoch(0)
        self.broken = True  # nothing to append to: the next `append` must be given every row

    @property
    def limit_bytes(self) -> int:
        """What a file may grow to before it is written anew."""
        return HEADER.size + 2 * self.rows * self._record

    @property
    def bound_bytes(self) -> int:
        """What all files may take at any instant."""
        return 2 * self.limit_bytes + HEADER.size + self.rows * self._record

    @property
    def nbytes(self) -> int:
        """Bytes of the current file that count."""
        return HEADER.size + self._records * self._record

    def _start_epoch(self, epoch: int) -> None:
        self._epoch, self._records = epoch, 0
        self._header = HEADER.pack(MAGIC, VERSION, self.row_bytes, self.rows, epoch, self._digest)
        self._sum = hashlib.sha256(self._header)
        self._last: Rows = np.full(self.rows, -1, np.int64)  # place of the latest record of each row

    def path(self, epoch: int) -> Path:
        """The file of an epoch."""
        return self.directory / f"memory.{epoch}"

    def read(self, mark: Mark, into: Bytes) -> Rows:
        """Fill `into` (n, row_bytes) with rows 0 to n - 1 as of `mark`; returns the numbers of those that are there.

        The next `append` goes on from here. Raises DamagedJournalError, the intact records before the damage being in
        `into` and their rows in the error's `rows`, when the file is short or altered; the journal is then `broken`.
        """
        self._start_epoch(mark.epoch)
        self.broken = True
        try:
            with open(self.path(mark.epoch), "rb") as file:
                if file.read(HEADER.size) != self._header:
                    raise DamagedJournalError(
                        f"{self.path(mark.epoch).name}: header is not this memory's", self._there()
                    )
                count = max(1, READ_BYTES // self._record)
                for first in range(0, mark.records, count):
                    wanted = min(count, mark.records - first)
                    self._take(file.read(wanted * self._record), wanted, into)
        except OSError as error:
            raise DamagedJournalError(
                f"{self.path(mark.epoch).name}: {error.strerror or error}", self._there()
            ) from None
        if self._sum.hexdigest() != mark.sha256:
            raise DamagedJournalError(f"{self.path(mark.epoch).name}: SHA-256 is not the slot's", self._there()[:0])
        self.broken = False
        return self._there()

    def _take(self, data: bytes, wanted: int, into: Bytes) -> None:
        for i in range(wanted):
            record = memoryview(data)[i * self._record : (i + 1) * self._record]
            name = f"{self.path(self._epoch).name}: record {self._records}"
            if len(record) < self._record:
                raise DamagedJournalError(f"{name} of {self._records + wanted - i} is missing", self._there())
            row, crc = RECORD.unpack(record[: RECORD.size])
            if row >= len(into) or crc != self._crc(self._epoch, self._records, row, record[RECORD.size :]):
                raise DamagedJournalError(f"{name}: checksum is wrong", self._there())
            into[row] = np.frombuffer(record[RECORD.size :], np.uint8)
            self._sum.update(record)
            self._last[row] = self._records
            self._records += 1

    def append(self, rows: Rows, data: Bytes) -> Mark:
        """Make `data` (n, row_bytes) the new contents of the `rows` (n,) and return the mark of all of it, synced.

        A `broken` journal starts anew from `data`, which must then hold every row that is filled. Raises OSError;
        the marks of the saved slots stay good.
        """
        if self.broken:
            self._renew(iter(()), rows, data)
        elif self.nbytes + len(rows) * self._record > self.limit_bytes:
            self._renew(self._latest(self._epoch, self._last), rows, data)
        elif len(rows):
            self._extend(rows, data)
        return Mark(self._epoch, self._records, self._sum.hexdigest())

    def _extend(self, rows: Rows, data: Bytes) -> None:
        file = os.open(self.path(self._epoch), os.O_WRONLY | os.O_CLOEXEC)
        total, place = self._sum.copy(), self._records
        try:
            os.ftruncate(file, self.nbytes)  # records after it were never acknowledged
            os.lseek(file, self.nbytes, os.SEEK_SET)
            step = max(1, READ_BYTES // self._record)
            for first in range(0, len(rows), step):
                chunk = b"".join(
                    self._encode(self._epoch, place + i, int(rows[i]), data[i].data)
                    for i in range(first, min(first + step, len(rows)))
                )
                total.update(chunk)
                write_all(file, chunk)
            self.broken = True  # after a sync that failed nobody knows what is on the disk
            os.fsync(file)
            self.broken = False
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, self.nbytes)
            raise
        finally:
            os.close(file)
        self._sum, self._records = total, place + len(rows)
        self._last[rows] = np.arange(place, self._records)
        self.written += len(rows) * self._record

    def _renew(self, old: Iterator[tuple[int, bytes]], rows: Rows, data: Bytes) -> None:
        """Write the next epoch: the latest record of every row in `old`, then the new ones."""
        before = (self._epoch, self._records, self._header, self._sum, self._last)
        epoch = max(self._epoch, *self._epochs()) + 1

        def parts() -> Iterator[bytes]:
            changed = set(map(int, rows))
            yield self._header
            news = ((int(row), content.tobytes()) for row, content in zip(rows, data, strict=True))
            for source in ((pair for pair in old if pair[0] not in changed), news):
                for row, content in source:
                    record = self._encode(epoch, self._records, row, content)
                    self._sum.update(record)
                    self._last[row] = self._records
                    self._records += 1
                    yield record

        try:
            self._start_epoch(epoch)
            replace_file(self.path(epoch), self.directory / TEMPORARY, parts(), 0o600)
        except BaseException:
            self._epoch, self._records, self._header, self._sum, self._last = before
            self.broken = True  # whatever failed, reading the old file back included: start from memory next time
            raise
        self.broken = False
        self.written += self.nbytes

    def _latest(self, epoch: int, last: Rows) -> Iterator[tuple[int, bytes]]:
        """(row, contents) of each row of an epoch, whose `last` records say where; read back and checked."""
        path = self.path(epoch)
        with open(path, "rb") as file:
            for row in np.flatnonzero(last >= 0):
                file.seek(HEADER.size + int(last[row]) * self._record)
                record = file.read(self._record)
                found, crc = RECORD.unpack(record[: RECORD.size]) if len(record) == self._record else (-1, 0)
                if found != row or crc != self._crc(epoch, int(last[row]), found, record[RECORD.size :]):
                    raise OSError(errno.EIO, f"{path.name} has gone bad on the disk")
                yield int(row), record[RECORD.size :]

    def settled(self, needed: Set[int]) -> None:
        """Remove the files of all epochs but `needed`, those of the marks in the slots on disk."""
        for epoch in self._epochs():
            if epoch not in needed:
                with suppress(OSError):
                    self.path(epoch).unlink()

    def _epochs(self) -> list[int]:
        names = (path.suffix[1:] for path in self.directory.glob("memory.*"))
        return [int(name) for name in names if name.isdecimal()] or [0]

    def _there(self) -> Rows:
        return np.flatnonzero(self._last >= 0)

    def _encode(self, epoch: int, place: int, row: int, content: bytes | memoryview) -> bytes:
        return RECORD.pack(row, self._crc(epoch, place, row, content)) + bytes(content)

    @staticmethod
    def _crc(epoch: int, place: int, row: int, content: bytes | memoryview) -> int:
        return zlib.crc32(content, zlib.crc32(CONTEXT.pack(epoch, place, row)))


class DamagedJournalError(FormatError):
    """A journal does not hold what its mark says; `rows`: the numbers of the rows that could be read."""

    def __init__(self, message: str, rows: Rows) -> None:
        super().__init__(message)
        self.rows = rows


def mark_of(metadata: Mapping[str, str]) -> Mark | None:
    """The mark in a slot's metadata, None when that slot was saved without a journal."""
    return Mark.from_json(metadata["journal"]) if "journal" in metadata else None
