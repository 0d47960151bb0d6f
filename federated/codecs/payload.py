"""The bytes of an update: segments, each a fixed header and a body whose size follows from it.

Specified byte for byte in docs/federated_codecs.md. A reader checks every number of the header against the size it
expects, the bytes that are there and a checksum before it allocates anything.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgessl.errors import FederationError
from federated.codecs.indices import packed_bytes

MAGIC = b"ESUP"
VERSION = 1
HEADER = struct.Struct("<4sBBBBIIIIIIIQ")
MAX_SIZE = 1 << 26  # parameters, as federated.message
MAX_SEGMENTS = 64
ALL, TOP, RANDOM = 0, 1, 2  # which numbers
FLOAT32, INT8, LOSSLESS = 0, 1, 2  # in which form
ITSELF, DIFFERENCE = 0, 1  # of what
_CHECKSUM_AT = 32

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Segment:
    """A header: numbers `begin` to `begin + span` of `size`, of which `count` are in the body.

    pick: ALL, TOP (indices lead the body) or RANDOM (drawn from `seed`). form: FLOAT32, INT8 (scales of `block`
    numbers each lead the numbers) or LOSSLESS. base: ITSELF, or DIFFERENCE from a reference that both ends have.
    """

    pick: int
    form: int
    base: int
    size: int
    begin: int
    span: int
    count: int
    block: int = 0
    seed: int = 0
    body_bytes: int = 0

    @property
    def index_bytes(self) -> int:
        """Bytes of indices at the start of the body."""
        return packed_bytes(self.span, self.count) if self.pick == TOP else 0

    @property
    def scale_bytes(self) -> int:
        """Bytes of scales that follow."""
        return 4 * -(-self.count // self.block) if self.form == INT8 else 0

    def body_range(self) -> range:
        """The sizes a body may have: one, but for LOSSLESS, whose numbers are compressed."""
        if self.form == LOSSLESS:
            return range(0, 4 * self.span + 64 + self.span // 4096 + 1)
        need = self.index_bytes + self.scale_bytes + self.count * (4 if self.form == FLOAT32 else 1)
        return range(need, need + 1)


def write_segment(segment: Segment, *body: bytes | Bytes) -> bytes:
    """Header and body, checksum filled in."""
    data = b"".join(bytes(part) for part in body)
    header = _pack(replace(segment, body_bytes=len(data)), 0)
    return _pack(replace(segment, body_bytes=len(data)), zlib.crc32(data, zlib.crc32(header))) + data


def read_segments(payload: Bytes, size: int) -> Iterator[tuple[Segment, Bytes]]:
    """Headers and bodies (views), checked one after the other; FederationError for what does not fit `size`."""
    rest = payload
    for _ in range(MAX_SEGMENTS):
        segment, checksum = _header(rest, size)
        end = HEADER.size + segment.body_bytes
        body = rest[HEADER.size : end]
        if zlib.crc32(body.data, zlib.crc32(_pack(segment, 0))) != checksum:
            raise FederationError("payload: checksum is wrong; it was damaged on its way")
        yield segment, body
        rest = rest[end:]
        if len(rest) == 0:
            return
    raise FederationError(f"payload: more than {MAX_SEGMENTS} segments")


def _pack(segment: Segment, checksum: int) -> bytes:
    s = segment
    numbers = (s.size, s.begin, s.span, s.count, s.block, s.body_bytes, checksum, s.seed)
    return HEADER.pack(MAGIC, VERSION, s.pick, s.form, s.base, *numbers)


def _header(data: Bytes, size: int) -> tuple[Segment, int]:
    if len(data) < HEADER.size:
        raise FederationError(f"payload: {len(data)} bytes where a header of {HEADER.size} is expected; truncated")
    magic, version, pick, form, base, *numbers = HEADER.unpack(data[: HEADER.size].tobytes())
    if magic != MAGIC:
        raise FederationError(f"payload: expected {MAGIC!r}, found {magic!r}; not an update")
    if version != VERSION:
        raise FederationError(f"payload: version {version} is not supported; this edgessl reads {VERSION}")
    if pick > RANDOM or form > LOSSLESS or base > DIFFERENCE:
        raise FederationError(f"payload: pick {pick}, form {form}, base {base} are unknown")
    found, begin, span, count, block, body_bytes, checksum, seed = numbers
    segment = Segment(pick, form, base, found, begin, span, count, block, seed, body_bytes)
    if found != size or not 0 < size <= MAX_SIZE:
        raise FederationError(f"payload: for {found} parameters, expected {size}")
    whole = pick == ALL or form == LOSSLESS
    odd = begin + span > size or count > span or (whole and (count != span or pick != ALL))
    odd = odd or (base == ITSELF and (span != size or pick != ALL)) or (pick != RANDOM and seed != 0)
    if odd or (form == INT8) != (block > 0) or (span > 0) != (count > 0):
        raise FederationError(f"payload: {segment} contradicts itself")
    if body_bytes not in segment.body_range() or body_bytes > len(data) - HEADER.size:
        there = len(data) - HEADER.size
        raise FederationError(f"payload: a body of {body_bytes} bytes for {count} numbers, {there} are there")
    return segment, checksum
