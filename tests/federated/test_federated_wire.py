"""Our encoder beside Flower's own: the same bytes, whatever the records hold."""

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from federated import compat

NAMES = st.text(max_size=5)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.floats(allow_nan=False)
ARRAYS = st.builds(
    Array, NAMES, st.lists(st.integers(0, (1 << 31) - 1), max_size=3).map(tuple), NAMES, st.binary(max_size=300)
)
SCALARS = INTS | FLOATS | st.booleans() | NAMES | st.binary(max_size=9)
RECORDS = (
    st.dictionaries(NAMES, ARRAYS, max_size=3).map(ArrayRecord)
    | st.dictionaries(NAMES, INTS | FLOATS | st.lists(FLOATS, max_size=3), max_size=3).map(MetricRecord)
    | st.dictionaries(NAMES, SCALARS | st.lists(INTS, max_size=3) | st.lists(NAMES, max_size=3), max_size=3).map(
        ConfigRecord
    )
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, RECORDS, max_size=4).map(RecordDict))
def test_the_bytes_are_flowers(content):
    data = compat.encode(content)
    assert data == recorddict_to_proto(content).SerializeToString(deterministic=True)
    assert compat.wire_bytes(content) == len(data)
    assert compat.encode(compat.decode(data)) == data


def test_lengths_of_every_size_of_varint():
    for size in (0, 1, 127, 128, 16383, 16384, 1 << 21):
        content = RecordDict({"a": ArrayRecord({"x": Array("uint8", (size,), "numpy.ndarray", bytes(size))})})
        assert compat.encode(content) == recorddict_to_proto(content).SerializeToString()
