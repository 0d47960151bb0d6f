"""What crosses the wire: the flat weights, a few numbers about them, and whose weights they are. Nothing else.

Both ways a message is one ArrayRecord "arrays" with ONE float32 array "theta" (P,) (content-addressed Flower
takes two or more requests per array, so one array is 11 x faster than 62), one ConfigRecord "config" with the
round and the digest of the bundle, and, towards the server, one MetricRecord "metrics". The record and key
names are those that Flower's own strategies look for.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from edgessl.errors import FederationError

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
THETA, ROUND, DIGEST, EXAMPLES = "theta", "server-round", "bundle-digest", "num-examples"
MAX_PARAMETERS = 1 << 26  # 256 MiB of float32
MAX_EXAMPLES = 1 << 53  # counts beyond are not exact in float64
_NPY_HEADER_BYTES = 4096  # numpy's own is 128 for a flat array
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<descr><f[48])', 'fortran_order': False, 'shape': \((?P<size>\d{1,20}),\), \} *\n",
    re.DOTALL,
)
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

Float = npt.NDArray[np.float32]
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


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
    config = records(content, ConfigRecord).get(CONFIG, ConfigRecord())
    if (digest := config.get(DIGEST)) != bundle_digest:
        raise FederationError(
            f"weights of another model: expected bundle {bundle_digest[:12]}, found {str(digest)[:12]}; "
            "give every node the same bundle"
        )
    found = config.get(ROUND)
    if not isinstance(found, int) or found < 0 or (round_number is not None and found != round_number):
        raise FederationError(f"{ROUND}: expected {round_number or 'a count'}, found {found!r}")
    arrays = records(content, ArrayRecord)
    names = sorted(f"{record}.{array}" for record in arrays for array in arrays[record])
    if names != [f"{ARRAYS}.{THETA}"]:
        raise FederationError(f"expected one array {ARRAYS}.{THETA}, found {names}")
    theta = flat_array(arrays[ARRAYS][THETA], size)
    return Update(theta, found, metrics_of(content) if reply else {})


def records(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """The records of one kind by name.

    Not content.array_records and its like: each of those is a reference cycle, which keeps the arrays of a
    reply in memory until the garbage collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def metrics_of(content: RecordDict) -> dict[str, float]:
    """The metrics of a client's reply, finite all of them; FederationError otherwise."""
    record = records(content, MetricRecord).get(METRICS, MetricRecord())
    examples = record.get(EXAMPLES)
    if not isinstance(examples, int) or not 1 <= examples <= MAX_EXAMPLES:
        raise FederationError(f"{EXAMPLES}: expected a count of at least 1, found {examples!r}")
    metrics = {name: value for name, value in record.items() if isinstance(value, int | float)}
    for name in record:
        if not math.isfinite(metrics.get(name, math.nan)):
            raise FederationError(f"metric {name!r}: expected a finite number, found {record[name]!r}")
    return metrics


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


def _npy(data: bytes, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
    """The .npy bytes (NEP 1) as a view.

    Not np.load: it evaluates the header as a literal and allocates whatever shape that claims.
    """
    header = _NPY_HEADER.match(data)
    if header is None:
        raise FederationError(f"theta: damaged array: {data[:16]!r}... is no .npy file of one flat array")
    claim = f"{header['descr'].decode()}[{header['size'].decode()}]"
    start = 10 + int.from_bytes(header["length"], "little")
    if claim != f"{dtype.str}[{size}]" or (header.end(), len(data)) != (start, start + dtype.itemsize * size):
        raise FederationError(f"theta: damaged array: expected {dtype.str}[{size}], found {claim} in {len(data)} bytes")
    return np.frombuffer(data, dtype, offset=start)
