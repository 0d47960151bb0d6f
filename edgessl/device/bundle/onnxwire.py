"""Refuse ONNX bytes that reach outside themselves, without the onnx package: a walk over the protobuf wire.

onnxruntime resolves external data against the working directory even for a model given as bytes, so the check
must come first. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgessl.device.bundle.operators import ALLOWED
from edgessl.device.bundle.specs import MAX_ELEMENTS
from edgessl.errors import BundleError

# message -> field number -> the message inside, for all that can hold a tensor or a node
_INSIDE = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _NODE_OPERATOR, _NODE_DOMAIN, _MODEL_GRAPH, _DIMS = 13, 14, 4, 7, 7, 1
_GRAPH_INITIALIZER, _TENSOR_NAME, _RAW_DATA = 5, 8, 9
_GRAPH_INPUT, _VALUE_NAME, _DATA_TYPE, _FLOAT = 11, 1, 2, 1
_REFUSED = {"Function": "a function of its own", "SparseTensor": "a sparse tensor"}
_DOMAINS = (b"", b"ai.onnx")


def check_graph(model: bytes, what: str) -> None:
    """Raise BundleError unless `model` is a ModelProto of allowed operators without external data.

    Functions, sparse tensors (a few bytes that ask for terabytes) and tensors beyond MAX_ELEMENTS are refused too.
    """
    graphs = 0
    todo = [("Model", memoryview(model))]
    while todo:
        kind, data = todo.pop()
        elements = 1
        for number, wire, value in fields(data, what):
            inside = _INSIDE[kind].get(number)
            if inside is not None:
                if not isinstance(value, memoryview):
                    raise BundleError(f"{what}: not an ONNX graph (wire type {wire} in {kind})")
                if inside in _REFUSED:
                    raise BundleError(f"{what}: {_REFUSED[inside]}; only plain tensors and operators are allowed")
                todo.append((inside, value))
            if kind == "Model" and number == _MODEL_GRAPH:
                graphs += 1
            elif kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                raise BundleError(f"{what}: a tensor has its data in another file; put it into the graph")
            elif kind == "Tensor" and number == _DIMS:
                for size in _sizes(value, what):
                    elements *= max(1, size)
                if elements > MAX_ELEMENTS:
                    raise BundleError(f"{what}: a tensor of more than {MAX_ELEMENTS} elements")
            elif kind == "Node" and number == _NODE_DOMAIN and value not in _DOMAINS:
                raise BundleError(f"{what}: an operator of another domain than standard ONNX")
            elif kind == "Node" and number == _NODE_OPERATOR and value not in ALLOWED:
                name = bytes(value[:64]) if isinstance(value, memoryview) else b""
                raise BundleError(f"{what}: operator {name.decode(errors='replace')!r} is not among those allowed")
    if graphs != 1:
        raise BundleError(f"{what}: not an ONNX graph")


def initializers(model: bytearray) -> dict[str, memoryview]:
    """The raw bytes of each constant by name, where they lie in `model`: writing to them changes it.

    Only constants whose numbers are stored raw; a checked graph (`check_graph`) is expected. BundleError otherwise.
    """
    found: dict[str, memoryview] = {}
    for number, _, graph in fields(memoryview(model), "graph"):
        if number != _MODEL_GRAPH or not isinstance(graph, memoryview):
            continue
        for field, _, tensor in fields(graph, "graph"):
            if field == _GRAPH_INITIALIZER and isinstance(tensor, memoryview):
                parts = {key: value for key, _, value in fields(tensor, "graph")}
                name, raw = parts.get(_TENSOR_NAME), parts.get(_RAW_DATA)
                if isinstance(name, memoryview) and isinstance(raw, memoryview):
                    found[bytes(name).decode(errors="replace")] = raw
    return found


def with_constant(model: bytes, name: str, constant: npt.NDArray[np.float32]) -> bytes:
    """A copy of `model` in which the input `name` is the float32 `constant`, of any shape.

    A checked graph (`check_graph`) is expected; BundleError when it has no such input.
    """
    tensor = b"".join(encoded(_DIMS, size) for size in constant.shape) + encoded(_DATA_TYPE, _FLOAT)
    tensor += encoded(_TENSOR_NAME, name.encode()) + encoded(_RAW_DATA, constant.astype("<f4").tobytes())
    out, found = bytearray(), False
    for number, _, value in fields(memoryview(model), "graph"):
        if number != _MODEL_GRAPH or not isinstance(value, memoryview):
            out += encoded(number, value)
            continue
        graph = bytearray()
        for key, _, part in fields(value, "graph"):
            if key == _GRAPH_INPUT and isinstance(part, memoryview) and _named(part, name):
                found = True
            else:
                graph += encoded(key, part)
        out += encoded(number, bytes(graph) + encoded(_GRAPH_INITIALIZER, tensor))
    if not found:
        raise BundleError(f"graph: it has no input {name!r} to make a constant of")
    return bytes(out)


def _named(value_info: memoryview, name: str) -> bool:
    return any(number == _VALUE_NAME and value == name.encode() for number, _, value in fields(value_info, "graph"))


def encoded(number: int, value: int | bytes | memoryview) -> bytes:
    """One field as it lies on the wire; models and graphs have numbers and byte strings only."""
    if not isinstance(value, int):
        return _as_varint(number << 3 | 2) + _as_varint(len(value)) + bytes(value)
    if value < 0:  # how `fields` gives what has a fixed width
        raise BundleError(f"graph: not an ONNX graph (field {number} of fixed width)")
    return _as_varint(number << 3) + _as_varint(value)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: memoryview, what: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of each field; the value of fixed-width numbers is not needed: -1."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place, what)
        value: int | memoryview = -1
        match tag & 7:
            case 0:  # varint
                value, place = _varint(data, place, what)
            case 1:  # 64 bits
                place += 8
            case 2:  # length and bytes
                length, place = _varint(data, place, what)
                value = data[place : place + length]
                place += length
            case 5:  # 32 bits
                place += 4
            case wire:
                raise BundleError(f"{what}: not an ONNX graph (wire type {wire})")
        if place > len(data):
            raise BundleError(f"{what}: not an ONNX graph (truncated)")
        yield tag >> 3, tag & 7, value


def _sizes(value: int | memoryview, what: str) -> Iterator[int]:
    """Dimensions of a tensor, one or packed."""
    if isinstance(value, int):
        yield value
        return
    place = 0
    while place < len(value):
        size, place = _varint(value, place, what)
        yield size


def _varint(data: memoryview, place: int, what: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[place : place + 10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, place + i + 1
    raise BundleError(f"{what}: not an ONNX graph (truncated)")
