"""Which numbers were picked: increasing indices in about 2 + log2(n / k) bits each, or drawn from a seed in none.

Elias-Fano: the low bits of each index as they are, the high bits as gaps in unary. The size follows from n and k
alone, so a reader knows it before it reads. P. Elias, "Efficient storage and retrieval by content and address of
static files", J. ACM 1974.
"""

import numpy as np
import numpy.typing as npt

from edgessl.errors import FederationError

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
_GOLDEN, _MIX1, _MIX2 = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def low_bits(span: int, count: int) -> int:
    """How many bits of each of `count` indices below `span` are stored as they are: floor(log2(span / count))."""
    return max(0, (span // count).bit_length() - 1) if count else 0


def packed_bytes(span: int, count: int) -> int:
    """The size of `pack_indices` for `count` indices below `span`."""
    if count == 0:
        return 0
    low = low_bits(span, count)
    return low * _octets(count) + _octets(count + ((span - 1) >> low))


def pack_indices(indices: Indices, span: int) -> Bytes:
    """Increasing int64 indices (k,) below `span` as uint8 (packed_bytes(span, k),).

    First the low bits, one plane of k bits per bit, least significant plane first; then k + ((span - 1) >> low)
    bits, of which number (index[i] >> low) + i is set for every i. Bits fill bytes from the least significant one.
    """
    count = len(indices)
    if count == 0:
        return np.zeros(0, np.uint8)
    low = low_bits(span, count)
    planes = [_octets_of((indices >> bit) & 1) for bit in range(low)]
    high = np.zeros(count + ((span - 1) >> low), np.uint8)
    high[(indices >> low) + np.arange(count)] = 1
    return np.concatenate([*planes, _octets_of(high)])


def unpack_indices(packed: Bytes, span: int, count: int) -> Indices:
    """What `pack_indices` was given; `packed` has packed_bytes(span, count) bytes. FederationError when damaged."""
    if count == 0:
        return np.zeros(0, np.int64)
    low, width = low_bits(span, count), _octets(count)
    length = count + ((span - 1) >> low)
    high = np.unpackbits(packed[low * width :], bitorder="little")
    places = np.flatnonzero(high)
    if len(places) != count or places[-1] >= length:
        raise FederationError(f"payload: {len(places)} indices, {count} are announced")
    indices = (places - np.arange(count)) << low
    for bit in range(low):
        plane = np.unpackbits(packed[bit * width : (bit + 1) * width], bitorder="little")
        if plane[count:].any():
            raise FederationError("payload: padding of an index plane is not zero")
        indices |= plane[:count].astype(np.int64) << bit
    if indices[-1] >= span or (np.diff(indices) <= 0).any():
        raise FederationError(f"payload: indices must increase and lie below {span}")
    return indices


def draw_indices(seed: int, span: int, count: int) -> Indices:
    """`count` of the indices below `span`, int64, increasing: those with the smallest (score, index).

    score(i) is output i of SplitMix64 from `seed` (Steele, Lea and Flood, OOPSLA 2014): the same on every machine,
    in any language, in any version of numpy.
    """
    with np.errstate(over="ignore"):
        score = np.uint64(seed) + np.arange(1, span + 1, dtype=np.uint64) * _GOLDEN
        score = (score ^ (score >> np.uint64(30))) * _MIX1
        score = (score ^ (score >> np.uint64(27))) * _MIX2
        score ^= score >> np.uint64(31)
    if count == span:
        return np.arange(span)
    last = np.partition(score, count - 1)[count - 1]
    below = np.flatnonzero(score < last)
    ties = np.flatnonzero(score == last)[: count - len(below)]
    return np.sort(np.concatenate([below, ties]))


def _octets(bits: int) -> int:
    return (bits + 7) // 8


def _octets_of(bits: npt.NDArray[np.integer]) -> Bytes:
    return np.packbits(bits.astype(np.uint8), bitorder="little")
