"""The network file: one zip with `network.json` and one .npy per array. No pickle, fixed bytes for a fixed network.

    save_network(network, "coder.network")
    network = load_network("coder.network")

`network.json` MUST have {"format": "edgessl-integer-network", "version": 1, "inputs", "populations", "connections",
"notes"}; an array field holds {"array": "MEMBER.npy"}. Members are stored uncompressed, int8, int16 or int32, C order.
A reader MUST refuse another format, a newer version, an unknown field, and whatever `IntegerNetwork` refuses.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.device.storage.files import write_atomically
from edgessl.errors import FormatError
from neuromorphic.network import Connection, IntegerNetwork
from neuromorphic.populations import POPULATIONS, Input
from neuromorphic.rules import LearningRule

FORMAT, VERSION = "edgessl-integer-network", 1
HEADER = "network.json"
_DTYPES = ("int8", "int16", "int32")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip knows: the same network gives the same bytes
_MAX_HEADER = 1 << 24


def dump_network(network: IntegerNetwork) -> bytes:
    """The bytes of the network file."""
    arrays: dict[str, np.ndarray] = {}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [_fields(part, f"input/{part.name}", arrays) for part in network.inputs],
        "populations": [
            {"kind": part.kind, **_fields(part, f"population/{part.name}", arrays)} for part in network.populations
        ],
        "connections": [_fields(part, f"connection/{part.name}", arrays) for part in network.connections],
        "notes": dict(network.notes),
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(HEADER, _EPOCH), json.dumps(header, indent=1, sort_keys=True))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), member.getvalue())
    return stream.getvalue()


def save_network(network: IntegerNetwork, path: str | Path) -> Path:
    """Write the network file whole or not at all; returns its path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, dump_network(network))
    return target


def load_network(path: str | Path) -> IntegerNetwork:
    """Read a network file.

    Raises:
        FormatError: not such a file, a newer version, an unknown or missing field, a damaged array.
        ConfigError: the numbers are not a valid network.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        advice = "expected a network file (edgessl neuro convert writes one)"
        raise FormatError(f"{path}: {error.strerror}; {advice}") from error
    return parse_network(data, str(path))


def parse_network(data: bytes, where: str = "network file") -> IntegerNetwork:
    """The network in the bytes of a network file; errors as in `load_network`, beginning with `where`."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
        if HEADER not in names or archive.getinfo(HEADER).file_size > _MAX_HEADER or len(set(names)) != len(names):
            raise FormatError(f"{where}: no {HEADER} of sensible size, or members twice; found {names[:5]}")
        header = json.loads(archive.read(HEADER))
        members = {name: archive.getinfo(name) for name in names if name != HEADER}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise FormatError(f"{where}: members must be stored, found a compressed one")
        arrays = {name: _read_array(archive.read(name), f"{where}: {name}") for name in members}
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, EOFError, NotImplementedError) as error:
        raise FormatError(f"{where}: not a network file ({error}); expected a zip with {HEADER}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise FormatError(f"{where}: format must be {FORMAT!r}, found {found!r}")
    if header.get("version") != VERSION:
        raise FormatError(f"{where}: version must be {VERSION}, found {header.get('version')!r}; update edgessl")
    lists = ("inputs", "populations", "connections")
    expected = {"format", "version", *lists, "notes"}
    if set(header) != expected or not all(isinstance(header[key], list) for key in lists):
        raise FormatError(f"{where}: {HEADER} must have {sorted(expected)}, found {sorted(header)}")
    return IntegerNetwork(
        [Input(**_read_fields(part, Input, arrays, where)) for part in header["inputs"]],
        [_read_population(part, arrays, where) for part in header["populations"]],
        [Connection(**_read_fields(part, Connection, arrays, where)) for part in header["connections"]],
        header["notes"],
    )


def _fields(part: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spec in fields(part):
        value = getattr(part, spec.name)
        if isinstance(value, np.ndarray):
            member = f"{prefix}/{spec.name}.npy"
            arrays[member] = value
            value = {"array": member}
        elif isinstance(value, LearningRule):
            value = value.to_json()
        elif isinstance(value, np.integer):
            value = int(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        found[spec.name] = value
    return found


def _read_fields(part: Any, kind: type, arrays: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    known = {spec.name for spec in fields(kind)}
    if not isinstance(part, dict) or set(part) != known:
        odd = sorted(set(part) ^ known) if isinstance(part, dict) else [type(part).__name__]
        raise FormatError(f"{where}: {kind.__name__} must have the fields {sorted(known)}; unknown or missing: {odd}")
    read = {}
    for name, value in part.items():
        if isinstance(value, dict) and set(value) == {"array"}:
            if value["array"] not in arrays:
                raise FormatError(f"{where}: array {value['array']!r} of {kind.__name__}.{name} is not in the file")
            value = arrays[value["array"]]
        elif name == "rule" and value is not None:
            value = LearningRule.from_json(value)
        elif name == "weights":
            raise FormatError(f"{where}: weights of {part.get('name')!r} must be an array member")
        read[name] = value
    return read


def _read_population(part: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    kind = part.get("kind") if isinstance(part, dict) else None
    if kind not in POPULATIONS:
        raise FormatError(f"{where}: population kind must be one of {', '.join(POPULATIONS)}, found {kind!r}")
    rest = {name: value for name, value in part.items() if name != "kind"}
    return POPULATIONS[kind](**_read_fields(rest, POPULATIONS[kind], arrays, where))


def _read_array(data: bytes, where: str) -> np.ndarray:
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False, max_header_size=1000)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{where}: damaged array ({error})") from error
    if array.dtype.name not in _DTYPES:
        raise FormatError(f"{where}: arrays must be {', '.join(_DTYPES)}, found {array.dtype}")
    return array
