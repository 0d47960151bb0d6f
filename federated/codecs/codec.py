"""Updates in fewer bytes: which numbers travel, and in which form.

What is encoded is the difference from a reference that both ends have, plus the residual: what earlier updates left
out. Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018; Karimireddy et al., "Error feedback fixes
SignSGD and other gradient compression schemes", ICML 2019.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgessl.errors import FederationError
from federated.codecs import payload as wire
from federated.codecs.indices import Indices, draw_indices, pack_indices, unpack_indices
from federated.codecs.payload import Segment

BLOCK = 128  # numbers that share a scale: 3 % more bytes
_PICKS = {"topk": wire.TOP, "randomk": wire.RANDOM}
_DEFLATE_LEVEL = 6

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Codec:
    """How updates are encoded; get one from `parse_codec`.

    pick: wire.ALL, TOP (the `keep` largest by magnitude) or RANDOM (`keep` drawn anew each time). form: wire.FLOAT32,
    INT8 (symmetric, one scale per BLOCK numbers) or LOSSLESS.
    """

    pick: int = wire.ALL
    keep: float = 1.0
    form: int = wire.FLOAT32

    @property
    def name(self) -> str:
        """What `parse_codec` reads."""
        picks = [f"{name}:{self.keep:g}" for name, pick in _PICKS.items() if pick == self.pick]
        forms = {wire.INT8: ["int8"], wire.LOSSLESS: ["delta"]}.get(self.form, [])
        return "+".join(picks + forms)

    @property
    def lossless(self) -> bool:
        """Whether what is decoded is what was encoded, bit for bit."""
        return self.form == wire.LOSSLESS

    def encode(
        self, theta: Float, reference: Float | None = None, residual: Float | None = None
    ) -> tuple[Bytes, Float]:
        """theta float32 (P,) as a payload uint8 (N,), and the residual float32 (P,) for the next time.

        With a `reference` (P,) the change from it is encoded, `residual` added, and only the part that changed at all:
        with a frozen backbone, the tail. Without one, theta itself, which needs every number; the residual is then
        what rounding left. decode(payload) - reference + new residual is the change + `residual` exactly, up to the
        rounding of the sum with the reference. Raises FederationError when the change is not finite, or there is none
        to pick from.
        """
        theta = np.ascontiguousarray(theta, np.float32)
        if reference is None and self.pick != wire.ALL:
            raise FederationError(f"codec {self.name} sends changes and there is no reference; send theta whole first")
        with np.errstate(over="ignore", invalid="ignore"):
            left = theta.copy() if reference is None else theta - reference
            if residual is not None and not self.lossless:
                left += residual
        if not np.isfinite(left).all():
            raise FederationError("the change of theta is not finite; nothing was encoded")
        if self.lossless:
            return _lossless(theta, reference), np.zeros_like(theta)
        begin, end = (0, len(left)) if reference is None else _window(left)
        window = left[begin:end]  # a view: what is sent is taken from it
        count = min(len(window), max(1, round(self.keep * len(window))))
        segment = Segment(
            pick=self.pick,
            form=self.form,
            base=wire.ITSELF if reference is None else wire.DIFFERENCE,
            size=len(theta),
            begin=begin,
            span=len(window),
            count=count,
            block=BLOCK if self.form == wire.INT8 else 0,
            seed=zlib.crc32(theta.view(np.uint8).data) if self.pick == wire.RANDOM else 0,
        )
        indices = self._pick(segment, window)
        listed = pack_indices(indices, len(window)) if self.pick == wire.TOP else b""
        if self.form == wire.INT8:
            scales, numbers = quantize(window[indices], BLOCK)
            sent, body = dequantize(scales, numbers, BLOCK), scales.astype("<f4").tobytes() + numbers.tobytes()
        else:
            sent = window[indices].copy()
            body = sent.astype("<f4").tobytes()
        window[indices] -= sent
        return np.frombuffer(wire.write_segment(segment, listed, body), np.uint8), left

    def _pick(self, segment: Segment, window: Float) -> Indices:
        if segment.pick == wire.ALL or segment.count == segment.span:
            return np.arange(segment.span)
        if segment.pick == wire.RANDOM:
            return draw_indices(segment.seed, segment.span, segment.count)
        least = segment.span - segment.count
        return np.sort(np.argpartition(np.abs(window), least)[least:])


def parse_codec(name: str) -> Codec:
    """The codec called "int8", "topk:0.05", "randomk:0.05", "topk:0.05+int8", "randomk:0.05+int8" or "delta".

    The number is the share of the changed parameters that travel, in (0, 1]. Raises FederationError.
    """
    allowed = "int8, topk:SHARE, randomk:SHARE, topk:SHARE+int8, randomk:SHARE+int8, delta"
    pick, keep, form = wire.ALL, 1.0, wire.FLOAT32
    for part in (parts := name.split("+")):
        word, _, number = part.partition(":")
        if word in _PICKS and pick == wire.ALL and form == wire.FLOAT32:
            pick = _PICKS[word]
            try:
                keep = float(number)
            except ValueError:
                keep = 0.0
            if not 0 < keep <= 1:
                raise FederationError(f"codec {name!r}: expected a share in (0, 1] after {word}:, found {number!r}")
        elif part == "int8" and form == wire.FLOAT32:
            form = wire.INT8
        elif part == "delta" and len(parts) == 1:
            form = wire.LOSSLESS
        else:
            raise FederationError(f"codec {name!r} is unknown; choose one of {allowed}")
    return Codec(pick, keep, form)


def decode(payload: Bytes, size: int, reference: Float | None = None) -> Float:
    """theta float32 (size,) from a payload uint8 (N,); `reference` (size,) is what it is a difference from.

    Several segments in a row are differences one from the other. Raises FederationError, before anything is
    allocated, for a payload that is truncated, damaged, of another size, or that needs a reference that is not given.
    """
    theta = reference
    for segment, body in wire.read_segments(payload, size):
        if segment.base == wire.DIFFERENCE and (theta is None or theta.shape != (size,)):
            raise FederationError("payload: a difference, and what it is a difference from is not at hand")
        theta = _apply(segment, body, None if segment.base == wire.ITSELF else theta)
    assert theta is not None
    if not np.isfinite(theta).all():
        raise FederationError("payload: decodes to NaN or infinite numbers")
    return theta


def _apply(segment: Segment, body: Bytes, reference: Float | None) -> Float:
    if segment.form == wire.LOSSLESS:
        return _restore(segment, body, reference)
    indices: Indices | None = None
    if segment.pick == wire.TOP:
        indices = unpack_indices(body[: segment.index_bytes], segment.span, segment.count)
    elif segment.pick == wire.RANDOM:
        indices = draw_indices(segment.seed, segment.span, segment.count)
    rest = body[segment.index_bytes :]
    if segment.form == wire.INT8:
        scales = np.frombuffer(rest[: segment.scale_bytes].tobytes(), "<f4").astype(np.float32)
        values = dequantize(scales, rest[segment.scale_bytes :].view(np.int8), segment.block)
    else:
        values = np.frombuffer(rest.tobytes(), "<f4").astype(np.float32)
    theta = np.zeros(segment.size, np.float32) if reference is None else np.array(reference, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        window = theta[segment.begin : segment.begin + segment.span]
        window[slice(None) if indices is None else indices] += values
    return theta


def quantize(values: Float, block: int) -> tuple[Float, npt.NDArray[np.int8]]:
    """Scales float32 (ceil(k / block),) and int8 (k,): value = scale * number, off by at most scale / 2.

    The scale is the block's largest magnitude / 127; a block whose scale would not be a normal float32 is all zero.
    """
    if len(values) == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int8)
    largest = np.maximum.reduceat(np.abs(values), np.arange(0, len(values), block))
    scales: Float = (largest / np.float32(127)).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 0
    each = np.repeat(scales, block)[: len(values)]
    ratio = np.divide(values, each, out=np.zeros_like(values), where=each != 0)
    return scales, np.clip(np.rint(ratio), -127, 127).astype(np.int8)


def dequantize(scales: Float, numbers: npt.NDArray[np.int8], block: int) -> Float:
    """float32 (k,) from what `quantize` gave."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.repeat(scales, block)[: len(numbers)] * numbers.astype(np.float32)


def _window(change: Float) -> tuple[int, int]:
    moved = np.flatnonzero(change)
    return (int(moved[0]), int(moved[-1]) + 1) if len(moved) else (0, 0)


def _lossless(theta: Float, reference: Float | None) -> Bytes:
    """The bits in which theta differs from the reference, the four bytes of the numbers apart, deflated."""
    bits = theta.view(np.uint32)
    if reference is not None:
        bits = bits ^ np.ascontiguousarray(reference, np.float32).view(np.uint32)
    begin, end = (0, len(bits)) if reference is None else _window(bits)  # type: ignore[arg-type]
    planes = bits[begin:end].astype("<u4").view(np.uint8).reshape(-1, 4).T
    base = wire.ITSELF if reference is None else wire.DIFFERENCE
    segment = Segment(wire.ALL, wire.LOSSLESS, base, len(theta), begin, end - begin, end - begin)
    body = zlib.compress(np.ascontiguousarray(planes).tobytes(), _DEFLATE_LEVEL)
    return np.frombuffer(wire.write_segment(segment, body), np.uint8)


def _restore(segment: Segment, body: Bytes, reference: Float | None) -> Float:
    want = 4 * segment.span
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(body.tobytes(), want + 1)  # never more than announced, whatever it would expand to
    except zlib.error as error:
        raise FederationError(f"payload: {error}") from None
    if len(raw) != want or not stream.eof or stream.unused_data:
        raise FederationError(f"payload: {len(raw)} bytes after inflating, {want} are announced")
    bits = np.frombuffer(raw, np.uint8).reshape(4, -1).T
    theta = np.zeros(segment.size, np.float32) if reference is None else np.array(reference, np.float32)
    words = theta.view(np.uint32)
    words[segment.begin : segment.begin + segment.span] ^= np.ascontiguousarray(bits).view("<u4").reshape(-1)
    return theta
