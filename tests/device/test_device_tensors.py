import contextlib
import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.device.storage.tensors import DTYPES, MAX_HEADER_BYTES, dumps, loads, pieces
from edgessl.errors import FormatError

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=20)
ARRAYS = st.sampled_from([d for d in DTYPES.values()]).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=5)


def same(a, b):
    return (
        set(a) == set(b)
        and all(a[k].dtype == b[k].dtype and a[k].shape == b[k].shape for k in a)
        and all(a[k].tobytes() == b[k].tobytes() for k in a)
    )


def with_header(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@settings(max_examples=150, deadline=None)
@given(TENSORS, st.dictionaries(NAMES, st.text(st.characters(codec="utf-8")), max_size=3))
def test_roundtrip(tensors, metadata):
    data = dumps(tensors, metadata)
    found, meta = loads(data)
    assert same(found, tensors)
    assert meta == metadata
    assert int.from_bytes(data[:8], "little") % 8 == 0
    for array in found.values():
        assert array.flags.writeable
        assert array.flags.owndata or array.base.flags.owndata
        assert array.dtype.isnative
    assert dumps(dict(reversed(tensors.items())), metadata) == data


@settings(max_examples=100, deadline=None)
@given(TENSORS)
def test_agrees_with_the_safetensors_package_both_ways(tensors):
    assert same(safetensors.numpy.load(dumps(tensors, {"a": "b"})), tensors)
    assert same(loads(safetensors.numpy.save(tensors, {"a": "b"}))[0], tensors)
    assert loads(safetensors.numpy.save(tensors, {"a": "b"}))[1] == {"a": "b"}


def test_exact_bytes():
    data = dumps({"b": np.array([1, 2], np.int16), "a": np.array(1.5, np.float32)}, {"k": "v"})
    header = (
        b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    assert data == len(padded).to_bytes(8, "little") + padded + b"\0\0\xc0\x3f\1\0\2\0"


def test_views_big_endian_and_strides():
    a = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(loads(dumps({"a": a}))[0]["a"], a.astype("<f4"))


def test_pieces_share_memory():
    a = np.zeros(1000, np.float32)
    part = pieces({"a": a})[1]
    a[0] = 1.0
    assert bytes(part[:4]) == b"\0\0\x80\x3f"


VALID = dumps({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}, {"k": "v"})


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(VALID)),
)
def test_mutated_bytes_raise_nothing_but_format_error(changes, cut):
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    for candidate in (bytes(data), bytes(data[:cut]), bytes(data[cut:])):
        with contextlib.suppress(FormatError):
            loads(candidate)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x, max_size=3)))
def test_any_json_for_an_entry_raises_nothing_but_format_error(junk):
    for key in ("dtype", "shape", "data_offsets"):
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | {key: junk}
        with contextlib.suppress(FormatError):
            loads(with_header({"a": entry}, bytes(4)))


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"\0" * 7, "truncated"),
        (b"\xff" * 8, "at most"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "at most"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (with_header(b" {}"), "does not start"),
        (with_header(b"{" * 9), "header"),
        (with_header(b"{" + b'"a":[' * 100_000), "nested|header"),
        (with_header(b'{"a":1,"a":2}'), "'a' appears twice"),
        (with_header(b'{"a":NaN}'), "not JSON"),
        (with_header(b'{"a":"\xff"}'), "utf-8|UTF-8"),
        (with_header(b'{"a":' + b"9" * 5000 + b"}"), "header"),
        (with_header({"a": entry("F33")}, bytes(4)), "a.dtype"),
        (with_header({"a": entry(shape=(2,))}, bytes(4)), "span 4 bytes"),
        (with_header({"a": entry(shape=(True,))}, bytes(4)), r"a.shape\[0\]"),
        (with_header({"a": entry(shape=(-1,))}, bytes(4)), r"a.shape\[0\]"),
        (with_header({"a": entry(shape=(0, 1 << 30, 1 << 30), offsets=(0, 0))}), "too large"),
        (with_header({"a": entry(shape=(1,) * 9)}, bytes(4)), "at most 8"),
        (with_header({"a": entry(offsets=(4, 8))}, bytes(8)), "no gaps"),
        (with_header({"a": entry(), "b": entry()}, bytes(4)), "no overlap"),
        (with_header({"a": entry()}, bytes(5)), "5 bytes of data"),
        (with_header({"a": entry()}, bytes(3)), "3 bytes of data"),
        (with_header({"a": entry(offsets=(4, 0))}, bytes(4)), "span -4"),
        (with_header({"a": entry(extra=1)}, bytes(4)), "unknown key"),
        (with_header({"a": entry("BOOL", (1,), (0, 1))}, b"\2"), "0 or 1"),
        (with_header({"__metadata__": {"k": 1}}), "metadata 'k'"),
        (with_header({"": entry()}, bytes(4)), "name"),
        (with_header(b'{"\\ud800":{}}'), "name"),
    ],
)
def test_refused(data, says):
    with pytest.raises(FormatError, match=says):
        loads(data)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.zeros(1, np.complex64)},
        {"a": np.array(["x"])},
        {"a": np.array([None])},
        {"": np.zeros(1)},
        {"__metadata__": np.zeros(1)},
        {"a" * 300: np.zeros(1)},
        {"a": np.zeros((1,) * 9)},
    ],
)
def test_what_cannot_be_stored(tensors):
    with pytest.raises(FormatError):
        dumps(tensors)
