"""What may cross the wire, and what is refused."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from edgessl.errors import FederationError
from federated import compat, message

DIGEST, SIZE = "cd" * 32, 50
THETA = np.linspace(-1, 1, SIZE, dtype=np.float32)
METRICS = {"num-examples": 7, "loss": 0.5}


def reply():
    return message.pack(THETA, bundle_digest=DIGEST, round_number=3, metrics=METRICS)


def accept(content, **options):
    options = {"bundle_digest": DIGEST, "size": SIZE, "round_number": 3, "reply": True} | options
    return message.unpack(content, **options)


def test_round_trip_over_the_wire():
    update = accept(compat.decode(compat.encode(reply())))
    np.testing.assert_array_equal(update.theta, THETA)
    assert update.theta.dtype == np.float32
    assert (update.round, update.metrics) == (3, METRICS)


def test_a_message_holds_one_array_one_config_and_towards_the_server_metrics():
    assert {k: list(v) for k, v in reply().array_records.items()} == {"arrays": ["theta"]}
    assert len(reply().config_records) == len(reply().metric_records) == 1
    down = message.pack(THETA, bundle_digest=DIGEST, round_number=3)
    assert sorted(down) == ["arrays", "config"]
    assert accept(down, reply=False).metrics == {}


@pytest.mark.parametrize("size", [1, 1000, 250_000])
def test_bytes_are_four_per_parameter_and_a_small_constant(size):
    content = message.pack(np.ones(size, np.float32), bundle_digest=DIGEST, round_number=1, metrics=METRICS)
    assert 0 < compat.wire_bytes(content) - 4 * size < 512


def test_float64_is_cast_to_float32_and_nothing_else_is():
    content = reply()
    content["arrays"] = ArrayRecord({"theta": Array(THETA.astype(np.float64) + 1e-12)})
    update = accept(content)
    assert update.theta.dtype == np.float32
    np.testing.assert_array_equal(update.theta, THETA)
    content["arrays"] = ArrayRecord({"theta": Array(THETA.astype(np.float16))})
    with pytest.raises(FederationError, match=r"expected float32\[50\] as numpy.ndarray, found float16\[50\]"):
        accept(content)


def array(values):
    return RecordDict({"arrays": ArrayRecord({"theta": Array(values)})})


def with_value(i, value):
    theta = THETA.copy()
    theta[i] = value
    return theta


def lying(header_shape, data=THETA):
    """An Array whose own fields are right and whose .npy header is not."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": header_shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return Array("float32", (SIZE,), "numpy.ndarray", buffer.getvalue() + data.tobytes())


def raw(data):
    return Array("float32", (SIZE,), "numpy.ndarray", data)


REFUSED = {
    "nan": (array(with_value(7, np.nan)), "1 of 50 numbers are NaN"),
    "infinity": (array(with_value(7, np.inf)), "1 of 50 numbers are NaN or infinite"),
    "overflowing float64": (array(with_value(7, 1).astype(np.float64) * 1e300), "NaN or infinite"),
    "size": (array(THETA[:-1]), r"expected float32\[50\] as numpy.ndarray, found float32\[49\]"),
    "shape": (array(THETA.reshape(5, 10)), r"found float32\[5, 10\]"),
    "lying header": ({"arrays": ArrayRecord({"theta": lying((1 << 40,))})}, "damaged array"),
    "truncated": ({"arrays": ArrayRecord({"theta": lying((SIZE,), THETA[:-1])})}, "damaged array"),
    "garbage": ({"arrays": ArrayRecord({"theta": raw(b"garbage")})}, "damaged array"),
    "too many bytes": ({"arrays": ArrayRecord({"theta": raw(bytes(100_000))})}, "100000 bytes for float32"),
    "two arrays": (
        {"arrays": ArrayRecord({"theta": Array(THETA), "memory": Array(THETA)})},
        r"expected one array arrays.theta, or payload in its place, found \['arrays.memory', 'arrays.theta'\]",
    ),
    "second record": ({"more": ArrayRecord({"theta": Array(THETA)})}, "expected one array"),
    "digest": ({"config": ConfigRecord({"bundle-digest": "ee" * 32, "server-round": 3})}, "another model"),
    "no config": ({"config": ConfigRecord()}, "another model: expected bundle cdcdcdcdcdcd, found None"),
    "round": (
        {"config": ConfigRecord({"bundle-digest": DIGEST, "server-round": 2})},
        "server-round: expected 3, found 2",
    ),
    "no metrics": ({"metrics": MetricRecord()}, "num-examples: expected a count"),
    "zero examples": ({"metrics": MetricRecord({"num-examples": 0})}, "found 0"),
    "examples beyond counting": ({"metrics": MetricRecord({"num-examples": 1 << 60})}, "at least 1"),
    "fractional examples": ({"metrics": MetricRecord({"num-examples": 1.5})}, "found 1.5"),
    "loss": (
        {"metrics": MetricRecord({"num-examples": 1, "loss": float("nan")})},
        "metric 'loss': expected a finite number, found nan",
    ),
    "list": (
        {"metrics": MetricRecord({"num-examples": 1, "losses": [1.0]})},
        "metric 'losses': expected a finite number",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(change, words):
    content = RecordDict({**reply(), **change})
    accept(reply())
    with pytest.raises(FederationError, match=words):
        accept(content)


def test_missing_records_are_refused():
    with pytest.raises(FederationError):
        accept(RecordDict())


def test_pack_refuses_what_unpack_would():
    with pytest.raises(FederationError, match="NaN"):
        message.pack(with_value(0, np.nan), bundle_digest=DIGEST, round_number=1)
    with pytest.raises(FederationError, match="num-examples"):
        message.pack(THETA, bundle_digest=DIGEST, round_number=1, metrics={"num-examples": 0})


def test_the_size_cap_holds():
    with pytest.raises(FederationError, match="67108864 can be exchanged"):
        accept(reply(), size=message.MAX_PARAMETERS + 1)


@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=6), st.integers(0, 400))
def test_damaged_arrays_give_the_right_array_or_a_clear_error(changes, length):
    data = bytearray(Array(THETA).data)[:length]
    for place, value in changes:
        if place < len(data):
            data[place] = value
    try:
        theta = message.flat_array(raw(bytes(data)), SIZE)
    except FederationError:
        return
    assert theta.shape == (SIZE,)
    assert theta.dtype == np.float32
    assert np.isfinite(theta).all()
