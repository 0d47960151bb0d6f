"""What crosses the wire: the flat weights, a few numbers about them, and whose weights they are. Nothing else.

Both ways a message is one ArrayRecord "arrays" with ONE float32 array "theta" (P,) (content-addressed Flower
takes two or more requests per array, so one array is 11 x faster than 62), one ConfigRecord "config" with the
round and the digest of the bundle, and, towards the server, one MetricRecord "metrics". The record and key
names are those that Flower's own strategies look for.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from edgessl.errors import FederationError

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
THETA, ROUND, DIGEST, EXAMPLES = "theta", "server-round", "bundle-digest", "num-examples"
MAX_PARAMETERS = 1 << 26  # 256 MiB of float32
MAX_EXAMPLES = 1 << 53  # counts beyond are not exact in float64
_NPY_HEADER_BYTES = 4096  # numpy's own is 128 for a flat array
_DTYPES = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Update:
    """An accepted message: theta float32 (P,), the round it belongs to, metrics ({} from the server)."""

    theta: Float
    round: int
    metrics: dict[str, float]


def pack(
    theta: Float, *, bundle_digest: str, round_number: int, metrics: Mapping[str, float] | None = None
) -> RecordDict:
    """Records to send; `metrics`, with an integer "num-examples", are what makes a client's reply.

    Raises FederationError for what `unpack` at the other end would refuse.
    """
    content = RecordDict(
        {
            ARRAYS: ArrayRecord({THETA: Array(np.ascontiguousarray(theta))}),
            CONFIG: ConfigRecord({DIGEST: bundle_digest, ROUND: round_number}),
        }
    )
    if metrics is not None:
        content[METRICS] = MetricRecord(dict(metrics))
    unpack(content, bundle_digest=bundle_digest, size=len(theta), reply=metrics is not None)
    return content


def unpack(
    content: RecordDict,
    *,
    bundle_digest: str,
    size: int,
    round_number: int | None = None,
    reply: bool = False,
) -> Update:
    """Check everything about received records and return what they say.

    `size` is P; `round_number`, where given, must be the message's; a `reply` must carry metrics. float64
    weights, which Flower's FedAdam and QFedAvg give out, are cast to float32; nothing else is cast. Raises
    FederationError, which says what is wrong.
    """
    config = _record(content, CONFIG, ConfigRecord)
    if (digest := config.get(DIGEST)) != bundle_digest:
        raise FederationError(
            f"weights of another model: expected bundle {bundle_digest[:12]}, found {str(digest)[:12]}; "
            "give every node the same bundle"
        )
    found = config.get(ROUND)
    if not isinstance(found, int) or found < 0 or (round_number is not None and found != round_number):
        raise FederationError(f"{ROUND}: expected {round_number or 'a count'}, found {found!r}")
    arrays = _record(content, ARRAYS, ArrayRecord)
    if len(content.array_records) != 1 or set(arrays) != {THETA}:
        names = sorted(f"{r}.{a}" for r, arrays in content.array_records.items() for a in arrays)
        raise FederationError(f"expected one array {ARRAYS}.{THETA}, found {names}")
    theta = flat_array(arrays[THETA], size)
    metrics = _metrics(_record(content, METRICS, MetricRecord)) if reply else {}
    return Update(theta, found, metrics)


def flat_array(array: Array, size: int) -> Float:
    """A Flower array as float32 (size,), without trusting a number in it; FederationError otherwise."""
    if not 0 < size <= MAX_PARAMETERS:
        raise FederationError(f"{size} parameters; 1 to {MAX_PARAMETERS} can be exchanged")
    dtype = _DTYPES.get(array.dtype)
    if dtype is None or array.stype != "numpy.ndarray" or tuple(array.shape) != (size,):
        found = f"{array.dtype}{list(array.shape)} as {array.stype}"
        raise FederationError(f"theta: expected float32[{size}] as numpy.ndarray, found {found}")
    if len(array.data) > size * dtype.itemsize + _NPY_HEADER_BYTES:
        raise FederationError(f"theta: {len(array.data)} bytes for {array.dtype}[{size}]")
    values = _npy(array.data, dtype, size)
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        theta = values.astype(np.float32)
    if bad := int(size - np.isfinite(theta).sum()):
        raise FederationError(f"theta: {bad} of {size} numbers are NaN or infinite")
    return theta


def _npy(data: bytes, dtype: np.dtype, size: int) -> npt.NDArray:
    """The .npy bytes as a view; np.load would first allocate whatever shape the header claims."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not .npy version 1.0")
        header = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise FederationError(f"theta: damaged array: {error}") from None
    if header != ((size,), False, dtype) or len(data) - stream.tell() != size * dtype.itemsize:
        raise FederationError(f"theta: damaged array: expected {dtype}[{size}], found header {header}")
    return np.frombuffer(data, dtype, offset=stream.tell())


def _metrics(record: MetricRecord) -> dict[str, float]:
    examples = record.get(EXAMPLES)
    if not isinstance(examples, int) or not 1 <= examples <= MAX_EXAMPLES:
        raise FederationError(f"{EXAMPLES}: expected a count of at least 1, found {examples!r}")
    for name, value in record.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise FederationError(f"metric {name!r}: expected a finite number, found {value!r}")
    return {name: value for name, value in record.items() if isinstance(value, int | float)}


def _record(content: RecordDict, name: str, kind: type) -> ArrayRecord | ConfigRecord | MetricRecord:
    record = content.get(name)
    if not isinstance(record, kind):
        raise FederationError(f"expected a {kind.__name__} {name!r}, found records {sorted(content)}")
    return record
