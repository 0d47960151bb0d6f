"""requantize.json: which numbers of theta each constant of the int8 encoder is made of; see docs/quantization.md."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.device.bundle.specs import MAX_ELEMENTS, read_shape
from edgessl.device.requantize.arithmetic import Float
from edgessl.device.storage import strictjson
from edgessl.device.storage.strictjson import Node
from edgessl.errors import BundleError

PLAN_FILE = "requantize.json"
RANGES = "ranges"  # the graph that measures ranges: (theta, x) -> embedding, low, high
FORMAT = "edgessl-requantize"
VERSION = 1
MOST = 4096  # layers, constants or activations


@dataclass(frozen=True)
class Slice:
    """Consecutive numbers of theta in a shape; `transposed`: a matrix that was stored the other way round."""

    offset: int
    shape: tuple[int, ...]
    transposed: bool = False

    def of(self, theta: Float) -> Float:
        """The tensor, as the graph has it."""
        size = int(np.prod(self.shape, dtype=np.int64))
        stored = self.shape[::-1] if self.transposed else self.shape
        values: Float = theta[self.offset : self.offset + size].reshape(stored)
        return values.T if self.transposed else values

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"offset": self.offset, "shape": list(self.shape), "transposed": self.transposed}

    @classmethod
    def from_json(cls, node: Node, theta_size: int) -> "Slice":
        """Read and validate; it must lie within theta."""
        node.object("offset", "shape", "transposed")
        shape = tuple(int(d) for d in read_shape(node.key("shape")))
        offset = node.key("offset").integer(0, MAX_ELEMENTS)
        if offset + int(np.prod(shape, dtype=np.int64)) > theta_size:
            node.fail(f"reaches beyond the {theta_size} numbers of theta")
        transposed = node.key("transposed").value
        if type(transposed) is not bool or (transposed and len(shape) != 2):
            node.key("transposed").fail("expected false, or true for a matrix")
        return cls(offset, shape, transposed)


@dataclass(frozen=True)
class Norm:
    """A batch norm that is folded into the layer before it."""

    gain: Slice
    bias: Slice
    mean: Slice
    variance: Slice
    eps: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        slices = {name: getattr(self, name).to_json() for name in ("gain", "bias", "mean", "variance")}
        return {**slices, "eps": self.eps}

    @classmethod
    def from_json(cls, node: Node, theta_size: int) -> "Norm":
        """Read and validate."""
        node.object("gain", "bias", "mean", "variance", "eps")
        gain, bias, mean, variance = (
            Slice.from_json(node.key(name), theta_size) for name in ("gain", "bias", "mean", "variance")
        )
        return cls(gain, bias, mean, variance, node.key("eps").number())


@dataclass(frozen=True)
class LayerPlan:
    """One layer: `levels` and `bias_levels` name its constants; `input` counts in the activations."""

    weight: Slice
    axis: int
    bits: int
    input: int
    levels: str
    bias: Slice | None
    norm: Norm | None
    bias_levels: str | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "weight": self.weight.to_json(),
            "axis": self.axis,
            "bits": self.bits,
            "input": self.input,
            "levels": self.levels,
            "bias": self.bias.to_json() if self.bias else None,
            "norm": self.norm.to_json() if self.norm else None,
            "bias_levels": self.bias_levels,
        }

    @classmethod
    def from_json(cls, node: Node, theta_size: int, activations: int) -> "LayerPlan":
        """Read and validate."""
        node.object("weight", "axis", "bits", "input", "levels", "bias", "norm", "bias_levels")
        weight = Slice.from_json(node.key("weight"), theta_size)
        bias, norm, levels = (node.key(name) for name in ("bias", "norm", "bias_levels"))
        return cls(
            weight,
            node.key("axis").integer(0, len(weight.shape) - 1),
            node.key("bits").integer(2, 8),
            node.key("input").integer(0, activations - 1),
            node.key("levels").text(),
            None if bias.value is None else Slice.from_json(bias, theta_size),
            None if norm.value is None else Norm.from_json(norm, theta_size),
            None if levels.value is None else levels.text(),
        )


@dataclass(frozen=True)
class Plan:
    """How to make the int8 encoder anew from `theta` (`theta_size` numbers).

    `activations` name the rounded tensors, in the order in which the ranges graph measures them; `floats` are the
    constants that stay float32.
    """

    theta_size: int
    layers: tuple[LayerPlan, ...]
    floats: tuple[tuple[str, Slice], ...]
    activations: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """requantize.json: the same plan gives the same bytes."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "theta_size": self.theta_size,
            "layers": [layer.to_json() for layer in self.layers],
            "floats": [{"constant": name, "from": piece.to_json()} for name, piece in self.floats],
            "activations": list(self.activations),
        }
        return json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> "Plan":
        """Read and validate; BundleError names the JSON path of what is wrong."""
        try:
            top = Node(strictjson.parse(data), "", BundleError)
        except ValueError as error:
            raise BundleError(f"{PLAN_FILE} is not valid JSON: {error}") from None
        top.key("format").choice(FORMAT)
        top.key("version").integer(VERSION, VERSION)
        size = top.key("theta_size").integer(1, MAX_ELEMENTS)
        activations = tuple(node.text() for node in top.key("activations").items(MOST))
        return cls(
            size,
            tuple(LayerPlan.from_json(node, size, len(activations)) for node in top.key("layers").items(MOST)),
            tuple(
                (node.key("constant").text(), Slice.from_json(node.key("from"), size))
                for node in top.key("floats").items(MOST)
            ),
            activations,
        )
