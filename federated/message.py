"""What crosses the wire: the flat weights, a few numbers about them, and whose weights they are. Nothing else.

Both ways a message is one ArrayRecord "arrays" with ONE array (content-addressed Flower takes two or more requests
per array, so one array is 11 x faster than 62): "theta" float32 (P,), or "payload" uint8 (N,), encoded by
federated.codecs as a difference from a version that both ends have. One ConfigRecord "config" says the round, the
digest of the bundle and what else the ends agree on; towards the server there is one MetricRecord "metrics". The record
and key names are those that Flower's own strategies look for.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict

from edgessl.errors import FederationError
from federated.codecs.codec import decode

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
THETA, ROUND, DIGEST, EXAMPLES = "theta", "server-round", "bundle-digest", "num-examples"
PAYLOAD = "payload"
VERSION = "version"  # to a device: names the weights that the message brings
REFERENCE = "reference"  # names the weights that a payload is a difference from
CODEC = "codec"  # to a device: how to encode its reply
_AGAIN = "again:"  # begins the group of a message that repeats another
MAX_PARAMETERS = 1 << 26  # 256 MiB of float32
MAX_EXAMPLES = 1 << 53  # counts beyond are not exact in float64
_NPY_HEADER_BYTES = 4096  # numpy's own is 128 for a flat array
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<descr><f[48]|<u4|\|u1)', 'fortran_order': False, 'shape': \((?P<size>\d{1,20}),\), \} *\n",
    re.DOTALL,
)
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
_BYTE, _WORD = np.dtype("|u1"), np.dtype("<u4")

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


@dataclass(frozen=True)
class Update:
    """An accepted message: theta float32 (P,), the round it belongs to, metrics ({} from the server), other config."""

    theta: Float
    round: int
    metrics: dict[str, float]
    config: dict[str, Any] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """A config entry that is a string; None when there is none."""
        return str(value) if isinstance(value := self.config.get(key), str) else None


def version_of(theta: Float) -> str:
    """The name of weights: SHA-256, hex, of theta as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(theta, "<f4").data).hexdigest()


def pack(
    theta: Float,
    *,
    bundle_digest: str,
    round_number: int,
    metrics: Mapping[str, float] | None = None,
    payload: Bytes | None = None,
    config: Mapping[str, Any] | None = None,
) -> RecordDict:
    """Records to send; `metrics`, with an integer "num-examples", are what makes a client's reply.

    A `payload` travels in place of theta; `config` then says under REFERENCE what it is a difference from, and may
    hold anything else that a ConfigRecord takes. Raises FederationError for what `unpack` at the other end would
    refuse whatever it has at hand.
    """
    name, array = (THETA, flower_array(theta)) if payload is None else (PAYLOAD, flower_array(payload))
    content = RecordDict(
        {
            ARRAYS: ArrayRecord({name: array}),
            CONFIG: ConfigRecord({**(config or {}), DIGEST: bundle_digest, ROUND: round_number}),
        }
    )
    if metrics is not None:
        content[METRICS] = MetricRecord(dict(metrics))
        metrics_of(content)
    if payload is None:
        unpack(content, bundle_digest=bundle_digest, size=len(theta), reply=metrics is not None)
    else:
        payload_array(array, len(theta))
    return content


def unpack(
    content: RecordDict,
    *,
    bundle_digest: str,
    size: int,
    round_number: int | None = None,
    reply: bool = False,
    references: Mapping[str, Float] | None = None,
) -> Update:
    """Check everything about received records and return what they say.

    `size` is P; `round_number`, where given, must be the message's; a `reply` must carry metrics. `references` are the
    weights at hand, by `version_of`, that payloads may be differences from; theta always comes out whole. float64
    weights, which Flower's FedAdam and QFedAvg give out, are cast to float32; nothing else is cast. Where the message
    names the version it brings, theta must hash to it. Raises FederationError, which says what is wrong.
    """
    config = config_of(content)
    if (digest := config.pop(DIGEST, None)) != bundle_digest:
        raise FederationError(
            f"weights of another model: expected bundle {bundle_digest[:12]}, found {str(digest)[:12]}; "
            "give every node the same bundle"
        )
    found = config.pop(ROUND, None)
    if not isinstance(found, int) or found < 0 or (round_number is not None and found != round_number):
        raise FederationError(f"{ROUND}: expected {round_number or 'a count'}, found {found!r}")
    arrays = records(content, ArrayRecord)
    names = sorted(f"{record}.{array}" for record in arrays for array in arrays[record])
    if names == [f"{ARRAYS}.{THETA}"]:
        theta = flat_array(arrays[ARRAYS][THETA], size)
    elif names == [f"{ARRAYS}.{PAYLOAD}"]:
        payload = payload_array(arrays[ARRAYS][PAYLOAD], size)
        theta = decode(payload, size, _reference(config.get(REFERENCE), references))
    else:
        raise FederationError(f"expected one array {ARRAYS}.{THETA}, or {PAYLOAD} in its place, found {names}")
    if not reply and VERSION in config and (version := version_of(theta)) != config[VERSION]:
        wanted = str(config[VERSION])[:12]
        raise FederationError(f"expected weights of version {wanted}, found {version[:12]}; damaged or mixed up")
    return Update(theta, found, metrics_of(content) if reply else {}, config)


def config_of(content: RecordDict) -> dict[str, Any]:
    """A copy of what the config record says, unchecked."""
    return dict(records(content, ConfigRecord).get(CONFIG, ConfigRecord()))


def again(message: Message) -> Message:
    """The same message under another name: one that perhaps arrived is not sent a second time."""
    about = message.metadata
    return Message(message.content, about.dst_node_id, about.message_type, ttl=about.ttl, group_id=about.group_id)


def repeat(message: Message, name: str, ttl: float) -> Message:
    """A message, good for `ttl` seconds, that repeats the one of that name, whose reply did not come."""
    about = message.metadata
    return Message(message.content, about.dst_node_id, about.message_type, ttl=ttl, group_id=_AGAIN + name)


def repeated(metadata: Metadata) -> str:
    """The name of the message that the one with these metadata repeats, or is a reply to such a one; "" for none."""
    return metadata.group_id.removeprefix(_AGAIN) if metadata.group_id.startswith(_AGAIN) else ""


def _reference(name: Any, references: Mapping[str, Float] | None) -> Float | None:
    """The weights of that name; None when the message names none."""
    if name is None:
        return None
    theta = (references or {}).get(name)
    if theta is None:
        raise FederationError(f"{REFERENCE} {str(name)[:12]} is not at hand; send theta whole")
    return theta


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
    finite = np.isfinite(theta)
    if not finite.all():  # four times faster than a sum, which only the message needs
        bad = int(size - finite.sum())
        raise FederationError(f"theta: {bad} of {size} numbers are NaN or infinite")
    return theta


def payload_array(array: Array, size: int) -> Bytes:
    """A Flower array as uint8 (N,), a payload for `size` parameters; FederationError otherwise."""
    most = 4 * size + size // 256 + _NPY_HEADER_BYTES
    if array.dtype != "uint8" or array.stype != "numpy.ndarray" or len(array.shape) != 1:
        raise FederationError(f"payload: expected uint8[N] as numpy.ndarray, found {array.dtype}{list(array.shape)}")
    if not 0 < array.shape[0] <= most or len(array.data) > most + _NPY_HEADER_BYTES:
        raise FederationError(f"payload: {len(array.data)} bytes for {size} parameters, at most {most} are allowed")
    return _npy(array.data, _BYTE, array.shape[0])


def words_array(array: Array, size: int) -> npt.NDArray[np.uint32]:
    """A Flower array as uint32 (size,): a masked update; FederationError otherwise."""
    if array.dtype != "uint32" or array.stype != "numpy.ndarray" or tuple(array.shape) != (size,):
        raise FederationError(f"expected uint32[{size}] as numpy.ndarray, found {array.dtype}{list(array.shape)}")
    return _npy(array.data, _WORD, size)


def flower_array(values: npt.NDArray[Any]) -> Array:
    """The same as Array(values), for one dimension, copying the numbers once instead of three times."""
    header = _npy_header(values.dtype.str, len(values))
    data = b"".join((header, np.ascontiguousarray(values).data.cast("B")))
    return Array(str(values.dtype), values.shape, "numpy.ndarray", data)


@lru_cache(maxsize=8)
def _npy_header(descr: str, size: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (size,)})
    return header.getvalue()


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
