"""Named tensors as bytes: the safetensors format, read strictly and written deterministically.

Layout: u64 little-endian header length, UTF-8 JSON header padded with spaces to 8 bytes, then the data.
https://github.com/huggingface/safetensors#format; what this reader refuses beyond it is in docs/bundle.md.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgessl.device.storage import strictjson
from edgessl.errors import FormatError

MAX_HEADER_BYTES = 1 << 20
MAX_DIMS = 8
MAX_ELEMENTS = 1 << 40  # of any shape, zero-sized dimensions counted as 1

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
Array = npt.NDArray[Any]


def pieces(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> list[memoryview]:
    """The file of `dumps` in consecutive parts that share memory with the arrays (no second copy)."""
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {_name(k): _text(v, k) for k, v in sorted(metadata.items())}
    parts, offset = [], 0
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise FormatError(f"tensor {name!r}: dtype {array.dtype} cannot be stored; use one of {[*DTYPES]}")
        if array.ndim > MAX_DIMS:
            raise FormatError(f"tensor {name!r}: {array.ndim} dimensions, at most {MAX_DIMS} are allowed")
        if name == "__metadata__":
            raise FormatError("tensor name '__metadata__' is reserved")
        span = [offset, offset + array.nbytes]
        header[_name(name)] = {"dtype": _CODES[dtype], "shape": list(array.shape), "data_offsets": span}
        offset = span[1]
        flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
        parts.append(flat.view(np.uint8).data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"header of {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed: fewer tensors")
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts]


def dumps(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialize; the same tensors and metadata always give the same bytes (names sorted).

    Raises FormatError for a dtype, name or metadata value that the format cannot hold.
    """
    return b"".join(pieces(tensors, metadata))


def loads(data: bytes | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Parse bytes; return fresh, native, writable arrays by name and the metadata.

    Raises FormatError when anything is off: nothing is allocated before every offset has been checked
    against the length of `data`.
    """
    if len(data) < 8:
        raise FormatError(f"truncated: {len(data)} bytes, the header length alone takes 8")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if length > len(data) - 8:
        raise FormatError(f"truncated: header of {length} bytes, {len(data) - 8} are there")
    text = bytes(data[8 : 8 + length])
    if not text.startswith(b"{"):
        raise FormatError("header does not start with '{'")
    try:
        header = strictjson.parse(text)
    except ValueError as error:
        raise FormatError(f"header: {error}") from None
    top = strictjson.Node(header, "", FormatError)
    metadata: dict[str, str] = {}
    if "__metadata__" in top.object():
        found = top.key("__metadata__").object()
        metadata = {_name(k): _text(v, k) for k, v in found.items()}
    body = memoryview(data)[8 + length :]
    entries = [_entry(top, name) for name in header if name != "__metadata__"]
    end = 0
    for name, _, _, begin, stop in sorted(entries, key=lambda e: (e[3], e[4])):
        if begin != end:
            raise FormatError(f"tensor {name!r}: data begins at byte {begin}, expected {end} (no gaps, no overlap)")
        end = stop
    if end != len(body):
        raise FormatError(f"{len(body)} bytes of data, the header describes {end}")
    return {name: _array(body[b:e], dtype, shape, name) for name, dtype, shape, b, e in entries}, metadata


def _entry(top: strictjson.Node, name: str) -> tuple[str, np.dtype[Any], tuple[int, ...], int, int]:
    node = top.key(_name(name))
    node.object("dtype", "shape", "data_offsets")
    dtype = DTYPES[node.key("dtype").choice(*DTYPES)]
    shape = tuple(n.integer(0, MAX_ELEMENTS) for n in node.key("shape").items(MAX_DIMS))
    if math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        node.fail(f"shape {list(shape)} is too large")
    offsets = node.key("data_offsets").items(2)
    if len(offsets) != 2:
        node.fail("data_offsets must be [begin, end]")
    begin, stop = (n.integer(0, 1 << 62) for n in offsets)
    need = math.prod(shape) * dtype.itemsize
    if stop - begin != need:
        node.fail(f"data_offsets span {stop - begin} bytes, shape and dtype need {need}")
    return name, dtype, shape, begin, stop


def _array(raw: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    if dtype.kind == "b" and raw and np.frombuffer(raw, np.uint8).max() > 1:
        raise FormatError(f"tensor {name!r}: BOOL bytes must be 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def _name(name: str) -> str:
    return strictjson.Node(name, "name", FormatError).text()


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"metadata {key!r}: expected a string, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"metadata {key!r}: not valid Unicode") from None
    return value
