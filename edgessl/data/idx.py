"""The idx format of MNIST and its kin (Y. LeCun, C. Cortes, C. Burges), plain or gzip-compressed."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgessl.data.arrays import ArraySource, array_source
from edgessl.data.source import Kind
from edgessl.errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def open_idx(path: str | Path, *, labels: str | Path | None = None, kind: Kind | None = None) -> ArraySource:
    """Open an idx file of samples; uint8 of 3 axes are grey images (1,H,W) in [0,1].

    labels: an idx file of one integer per sample. By default the file beside it that has the same name with
    "images" and "idx3" replaced by "labels" and "idx1", if there. Raises DataError.
    """
    path = Path(path)
    if labels is None:
        sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        labels = sibling if sibling != path and sibling.is_file() else None
    found = None if labels is None else read_idx(labels)
    return array_source(read_idx(path), labels=found, kind=kind, name=str(path))


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array of an idx file: a memory map of a plain file, in memory from a `.gz`. Raises DataError."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as stream:
                return _read(cast(IO[bytes], stream), path, mapped=False)
        with path.open("rb") as plain:
            return _read(plain, path, mapped=True)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an idx file: {error}") from error


def _read(stream: IO[bytes], path: Path, *, mapped: bool) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise DataError(
            f"{path}: expected an idx file (two zero bytes, a type, a number of axes), found {magic.hex()!r}"
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path}: the idx header is cut short; fetch the file again")
    shape = struct.unpack(f">{magic[3]}I", header)
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = dtype.itemsize
    for side in shape:
        expected *= side
    offset = stream.tell()
    # One byte more than the header promises shows a file that is too long without reading it whole.
    data = b"" if mapped else _read_at_most(stream, expected + 1)
    found = stream.seek(0, 2) - offset if mapped else len(data)
    if found != expected or expected == 0:
        raise DataError(
            f"{path}: the idx header promises {shape} values ({expected} bytes), found"
            f" {'more' if found > expected else found}; fetch the file again"
        )
    if mapped:
        return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    return np.frombuffer(data, dtype).reshape(shape)


def _read_at_most(stream: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes, in pieces, since a damaged header may promise more than there is memory."""
    parts = []
    while size > 0 and (part := stream.read(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
