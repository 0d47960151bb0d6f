"""Payloads: what comes out is within its bound, what is left is kept exactly, and what is damaged is refused."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgessl.errors import FederationError
from federated.codecs import decode, parse_codec
from federated.codecs import payload as wire
from federated.codecs.codec import BLOCK, dequantize, quantize
from federated.codecs.indices import draw_indices, pack_indices, packed_bytes, unpack_indices

NAMES = ["int8", "topk:0.1", "randomk:0.1", "topk:0.1+int8", "randomk:0.1+int8", "delta"]
numbers = st.floats(-1e6, 1e6, width=32)


def vectors(most=400):
    return st.integers(1, most).flatmap(lambda n: hnp.arrays(np.float32, n, elements=numbers))


def pair(size=1000, seed=0, scale=1e-3):
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(size).astype(np.float32)
    return reference, reference + (scale * rng.standard_normal(size)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(st.data())
def test_what_is_decoded_and_what_is_left_are_the_change(name, data):
    reference = data.draw(vectors())
    theta = data.draw(hnp.arrays(np.float32, len(reference), elements=numbers))
    owed = data.draw(hnp.arrays(np.float32, len(reference), elements=st.floats(-10, 10, width=32)))
    payload, left = parse_codec(name).encode(theta, reference, owed)
    back = decode(payload, len(theta), reference)
    assert back.dtype == left.dtype == np.float32
    if name == "delta":
        np.testing.assert_array_equal(back.view(np.uint32), theta.view(np.uint32))
        return
    zero = np.zeros_like(reference)
    wanted = (theta - reference) + owed
    sent = decode(payload, len(theta), zero)  # the same segments, applied to zero: what was sent, without rounding
    np.testing.assert_array_equal(sent + left, wanted)
    assert np.array_equal(back, reference + sent)


@pytest.mark.parametrize("name", ["int8", "topk:0.2+int8", "randomk:0.2"])
def test_error_feedback_telescopes(name):
    """Over many rounds: everything sent plus what is still owed is everything that was wanted, in float64."""
    codec, size = parse_codec(name), 300
    rng = np.random.default_rng(1)
    residual, sent, wanted = np.zeros(size, np.float32), np.zeros(size), np.zeros(size)
    for _ in range(30):
        change = (rng.integers(-(1 << 12), 1 << 12, size) / (1 << 12)).astype(np.float32)  # sums are exact
        before = residual
        payload, residual = codec.encode(change, np.zeros(size, np.float32), residual)
        now = decode(payload, size, np.zeros(size, np.float32))
        np.testing.assert_array_equal(now.astype(np.float64) + residual, (change + before).astype(np.float64))
        sent += now
        wanted += change
    np.testing.assert_allclose(sent + residual, wanted, atol=30 * 2.0**-20, rtol=0)
    assert np.abs(residual).max() < 20  # and what is owed does not pile up


@given(vectors(), st.integers(1, 200))
def test_int8_is_off_by_half_a_scale(values, block):
    scales, small = quantize(values, block)
    assert small.dtype == np.int8
    assert np.abs(small.astype(int)).max() <= 127
    off = np.abs(dequantize(scales, small, block).astype(np.float64) - values)
    bound = np.repeat(scales.astype(np.float64) / 2, block)[: len(values)] * (1 + 1e-5) + 2.0**-118
    assert (off <= bound).all()
    largest = np.abs(values).max()
    assert np.abs(scales.max() - largest / 127) <= 1e-6 * largest + 1e-37


@given(vectors(), st.floats(0.01, 1.0))
def test_topk_keeps_the_largest(values, share):
    payload, left = parse_codec(f"topk:{share}").encode(values, np.zeros_like(values))
    sent = decode(payload, len(values), np.zeros_like(values))
    kept = sent != 0
    moved = np.flatnonzero(values)
    window = moved[-1] + 1 - moved[0] if len(moved) else 0
    assert kept.sum() == min(len(moved), max(1, round(share * window))) if window else kept.sum() == 0
    if kept.any() and (~kept).any():
        assert np.abs(values[kept]).min() >= np.abs(values[~kept]).max()
    np.testing.assert_array_equal(sent[kept], values[kept])
    np.testing.assert_array_equal(left[kept], 0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=300))))
def test_indices_round_trip_in_the_announced_bytes(case):
    span, chosen = case
    indices = np.array(sorted(chosen), np.int64)
    packed = pack_indices(indices, span)
    assert len(packed) == packed_bytes(span, len(indices))
    np.testing.assert_array_equal(unpack_indices(packed, span, len(indices)), indices)


def test_indices_of_one_in_a_hundred_take_nine_bits():
    assert packed_bytes(100_000, 1000) * 8 / 1000 < 9  # Elias and Fano: 2 + log2(100) = 8.64


def test_draws_are_splitmix64():
    """Scores by Python's integers, and the generator's published first output for seed 1234567."""

    def score(seed, i):
        mask = (1 << 64) - 1
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert score(1234567, 0) == 6457827717110365317
    best = sorted(range(200), key=lambda i: (score(99, i), i))[:17]
    np.testing.assert_array_equal(draw_indices(99, 200, 17), sorted(best))


def test_draws_are_fair_and_differ():
    counts = np.zeros(50)
    for seed in range(2000):
        counts[draw_indices(seed, 50, 5)] += 1
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 0.9)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_part_costs_nothing(name):
    reference, theta = pair(10_000)
    theta[:9000] = reference[:9000]
    payload, left = parse_codec(name).encode(theta, reference)
    alone, _ = parse_codec(name).encode(theta[9000:], reference[9000:])
    assert len(payload) <= len(alone) + 8
    back = decode(payload, 10_000, reference)
    np.testing.assert_array_equal(back[:9000], reference[:9000])
    assert not left[:9000].any()


def test_bytes_per_parameter():
    reference, theta = pair(100_000)
    sizes = {name: len(parse_codec(name).encode(theta, reference)[0]) for name in NAMES}
    assert sizes["int8"] == 44 + 100_000 + 4 * 782
    assert sizes["randomk:0.1+int8"] == 44 + 10_000 + 4 * 79
    assert sizes["topk:0.1+int8"] < 44 + 10_000 + 4 * 79 + 5.4 * 10_000 / 8 + 1
    assert 4 * 100_000 / sizes["topk:0.1+int8"] > 23
    assert 0.5 < sizes["delta"] / 400_000 < 0.8


def test_nothing_changed_is_a_header():
    reference, _ = pair()
    for name in NAMES:
        payload, _ = parse_codec(name).encode(reference, reference)
        assert len(payload) <= 44 + 16
        np.testing.assert_array_equal(decode(payload, 1000, reference), reference)


def test_without_a_reference_theta_itself_travels():
    theta, _ = pair()
    payload, left = parse_codec("int8").encode(theta)
    np.testing.assert_allclose(decode(payload, 1000), theta, atol=np.abs(theta).max() / 127 / 2 + 1e-6)
    np.testing.assert_array_equal(decode(payload, 1000) + left, theta)
    np.testing.assert_array_equal(decode(parse_codec("delta").encode(theta)[0], 1000), theta)
    with pytest.raises(FederationError, match="send theta whole first"):
        parse_codec("topk:0.1").encode(theta)


def test_segments_in_a_row_are_steps():
    first, second = pair(seed=1)
    third = second + np.float32(0.01)
    codec = parse_codec("topk:0.5+int8")
    one, _ = codec.encode(second, first)
    middle = decode(one, 1000, first)
    two, _ = codec.encode(third, middle)
    np.testing.assert_array_equal(decode(np.concatenate([one, two]), 1000, first), decode(two, 1000, middle))
    with pytest.raises(FederationError, match="more than 64 segments"):
        decode(np.concatenate([one] * 65), 1000, first)


def test_exact_bytes():
    """The format of docs/federated_codecs.md, written by hand."""
    reference = np.zeros(10, np.float32)
    theta = np.array([0, 0, 127, 0, -254, 0, 1, 0, 0, 0], np.float32)
    payload, left = parse_codec("topk:0.4+int8").encode(theta, reference)  # window 2..7, two of five
    low = bytes([0b00])  # indices 0 and 2 of the window; floor(log2(5 / 2)) = 1 low bit each, both even
    high = bytes([0b101])  # high parts 0 and 1, at places 0 + 0 and 1 + 1
    body = low + high + struct.pack("<f", 2.0) + struct.pack("<2b", 64, -127)  # 63.5 rounds to even
    header = struct.pack("<4sBBBBIIIIIIIQ", b"ESUP", 1, 1, 1, 1, 10, 2, 5, 2, 128, len(body), 0, 0)
    checksum = zlib.crc32(header + body)
    header = struct.pack("<4sBBBBIIIIIIIQ", b"ESUP", 1, 1, 1, 1, 10, 2, 5, 2, 128, len(body), checksum, 0)
    assert payload.tobytes() == header + body
    np.testing.assert_array_equal(left, [0, 0, -1, 0, 0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_and_every_changed_bit_is_refused(name):
    reference, theta = pair(64)
    payload, _ = parse_codec(name).encode(theta, reference)
    for length in range(len(payload)):
        with pytest.raises(FederationError):
            decode(payload[:length], 64, reference)
    for bit in range(8 * len(payload)):
        bad = payload.copy()
        bad[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(FederationError):
            decode(bad, 64, reference)


def resealed(payload, **changes):
    """The payload with header fields changed and a checksum that fits, as an attacker would make it."""
    segment, _ = wire._header(payload, struct.unpack_from("<I", payload.tobytes(), 8)[0])
    fields = {**segment.__dict__, **changes}
    del fields["body_bytes"]
    return np.frombuffer(wire.write_segment(wire.Segment(**fields), payload[wire.HEADER.size :]), np.uint8)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1 << 25},
        {"size": 0xFFFFFFFF},
        {"span": 0xFFFFFFFF},
        {"span": 900, "begin": 200},
        {"count": 0xFFFFFFFF},
        {"count": 101},
        {"count": 0},
        {"block": 0},
        {"block": 1},
        {"seed": 7},
        {"pick": 0},
        {"pick": 2},
        {"pick": 9},
        {"form": 0},
        {"form": 2},
        {"base": 0},
        {"base": 3},
    ],
)
def test_a_lying_header_is_refused_and_allocates_nothing(changes):
    reference, theta = pair()
    payload, _ = parse_codec("topk:0.1+int8").encode(theta, reference)
    np.testing.assert_array_equal(resealed(payload), payload)
    bad = resealed(payload, **changes)
    tracemalloc.start()
    try:
        with pytest.raises(FederationError):
            decode(bad, 1000, reference)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_hostile_bodies_with_a_right_checksum():
    reference, theta = pair()
    payload, _ = parse_codec("topk:0.1").encode(theta, reference)
    body = payload[wire.HEADER.size :].copy()
    rng = np.random.default_rng(0)
    for _ in range(200):  # indices at random: refused, or in range
        body[: packed_bytes(1000, 100)] = rng.integers(0, 256, packed_bytes(1000, 100))
        bad = np.concatenate([payload[: wire.HEADER.size], body])
        with pytest.raises(FederationError, match=r"indices|padding"):
            decode(resealed(bad), 1000, reference)
    whole, _ = parse_codec("topk:1").encode(theta, reference)
    inf = whole.copy()
    inf[-4:] = np.frombuffer(np.float32(np.inf).tobytes(), np.uint8)
    with pytest.raises(FederationError, match="NaN or infinite"):
        decode(resealed(inf), 1000, reference)


def test_what_would_inflate_to_a_gigabyte_is_refused():
    reference, theta = pair()
    payload, _ = parse_codec("delta").encode(theta, reference)
    bomb = zlib.compress(bytes(1 << 26), 9)[:4000]
    head = wire.Segment(wire.ALL, wire.LOSSLESS, wire.DIFFERENCE, 1000, 0, 1000, 1000)
    tracemalloc.start()
    try:
        with pytest.raises(FederationError, match="after inflating, 4000 are announced"):
            decode(np.frombuffer(wire.write_segment(head, bomb), np.uint8), 1000, reference)
        assert tracemalloc.get_traced_memory()[1] < 256 << 10
    finally:
        tracemalloc.stop()
    assert len(payload) < 4000


@pytest.mark.parametrize("name", ["", "topk", "topk:0", "topk:1.1", "topk:x", "int8+int8", "delta+int8", "gzip"])
def test_unknown_codecs_are_refused(name):
    with pytest.raises(FederationError, match="codec"):
        parse_codec(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_what_is_parsed(name):
    assert parse_codec(name).name == name


def test_a_difference_needs_its_reference_and_a_finite_change():
    reference, theta = pair()
    payload, _ = parse_codec("int8").encode(theta, reference)
    with pytest.raises(FederationError, match="not at hand"):
        decode(payload, 1000)
    theta[3] = np.inf
    with pytest.raises(FederationError, match="not finite"):
        parse_codec("int8").encode(theta, reference)


def test_an_int8_block_is_128_numbers():
    assert BLOCK == 128
