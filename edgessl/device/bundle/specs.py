"""The small records a manifest is made of: what goes in, which tensors, which parameters, which graphs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgessl.device.storage.strictjson import Node
from edgessl.errors import BundleError, ConfigError

MAX_DIMS = 8
MAX_ELEMENTS = 1 << 28  # per tensor: 1 GiB of float32
MAX_CHANNELS = 1 << 16  # a pair has a mean and a std per value
MAX_VOCABULARY = 1 << 24  # whole numbers that float32 holds exactly
MAX_PARAMETERS = 1 << 14
MAX_BYTES = 1 << 30  # per member
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
KINDS = ("weight", "vector", "statistic", "fixed")  # the order of a flat theta
_RANKS = {
    "image": (3,),
    "signal": (2,),
    "spectrogram": (3,),
    "tokens": (2,),
    "pair": (1,),
    "features": (1,),
    "latent": (1, 2, 3),
}


def read_shape(node: Node, symbolic: bool = False) -> tuple[int | str, ...]:
    """A shape within the caps; with `symbolic`, its first dimension may be the batch symbol "N"."""
    dims: list[int | str] = []
    for i, n in enumerate(node.items(MAX_DIMS)):
        dims.append("N" if symbolic and i == 0 and n.value == "N" else n.integer(1, MAX_ELEMENTS))
    if math.prod(d for d in dims if isinstance(d, int)) > MAX_ELEMENTS:
        node.fail(f"{dims} has more than {MAX_ELEMENTS} elements")
    return tuple(dims)


def _fixed(node: Node) -> tuple[int, ...]:
    return tuple(d for d in read_shape(node) if isinstance(d, int))


@dataclass(frozen=True)
class InputSpec:
    """What one sample is. dtype is always float32.

    `shape`: image (C,H,W), signal (C,T), spectrogram (C,F,T), tokens (1,L), pair (n,): the values of two samples
    after each other, features (n,). `mean` and `std`, one per channel (of a pair and of features: per value) in
    `units`, are applied inside the encoder graph; tokens have mean 0, std 1. `vocabulary`: tokens are ids, whole
    numbers from 0 to below it; 0 for every other kind. A latent is what a backbone makes of a sample, (D,), (C,T),
    (L,D) or (C,H,W); its mean and std, along the first axis, say what was measured, and nothing applies them. Raises
    ConfigError when they do not fit together.
    """

    kind: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    units: str
    vocabulary: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _RANKS:
            raise ConfigError(f"input kind {self.kind!r}: expected one of {', '.join(_RANKS)}")
        if len(self.shape) not in _RANKS[self.kind] or any(d < 1 for d in self.shape):
            ranks = " or ".join(map(str, _RANKS[self.kind]))
            raise ConfigError(f"input shape {self.shape}: {self.kind} takes {ranks} dimensions >= 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.shape[0]:
                raise ConfigError(f"input {name}: {len(values)} values for {self.shape[0]} channels")
            if not all(math.isfinite(v) for v in values):
                raise ConfigError(f"input {name} {values}: expected finite numbers")
        if min(self.std) <= 0:
            raise ConfigError(f"input std {self.std}: expected numbers > 0")
        if self.kind == "tokens":
            self._check_tokens()
        elif self.vocabulary:
            raise ConfigError(f"input vocabulary {self.vocabulary}: only tokens have one, this is {self.kind}")

    def _check_tokens(self) -> None:
        if self.shape[0] != 1:
            raise ConfigError(f"input shape {self.shape}: tokens take (1, L)")
        if (self.mean, self.std) != ((0.0,), (1.0,)):
            raise ConfigError(f"input mean {self.mean}, std {self.std}: ids are not normalised; expected 0 and 1")
        if not 2 <= self.vocabulary <= MAX_VOCABULARY:
            raise ConfigError(f"input vocabulary {self.vocabulary}: expected 2 to {MAX_VOCABULARY} different ids")

    def to_json(self) -> dict[str, Any]:
        """The manifest's `input` object; `vocabulary` is there for tokens only."""
        tokens = {"vocabulary": self.vocabulary} if self.kind == "tokens" else {}
        return {
            **tokens,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": "float32",
            "mean": list(self.mean),
            "std": list(self.std),
            "units": self.units,
        }

    @classmethod
    def from_json(cls, value: Any, path: str = "input") -> "InputSpec":
        """Read what `to_json` wrote; raises BundleError naming the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, path, BundleError)
        kind = node.key("kind").text()
        tokens = ("vocabulary",) if kind == "tokens" else ()
        node.object("kind", "shape", "dtype", "mean", "std", "units", *tokens)
        node.key("dtype").choice("float32")
        shape, units = _fixed(node.key("shape")), node.key("units").text()
        vocabulary = node.key("vocabulary").integer(2, MAX_VOCABULARY) if tokens else 0
        mean, std = (tuple(n.number() for n in node.key(k).items(MAX_CHANNELS)) for k in ("mean", "std"))
        try:
            return cls(kind, shape, mean, std, units, vocabulary)
        except ConfigError as error:
            node.fail(str(error))


@dataclass(frozen=True)
class LatentSpec:
    """What a bundle with a cut remembers and trains on instead of samples.

    `cut`: the stage after which the encoder was cut; `spec`: a latent as an InputSpec of kind "latent"; a latent is
    stored as uint8 q and stands for `(q - zero_point) * scale`, float32. Raises ConfigError when that cannot be.
    """

    cut: str
    spec: InputSpec
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if self.spec.kind != "latent":
            raise ConfigError(f"latent kind: expected 'latent', found {self.spec.kind!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"latent scale {self.scale}: expected a finite number > 0")
        if not 0 <= self.zero_point <= 255:
            raise ConfigError(f"latent zero_point {self.zero_point}: expected 0 to 255")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return self.spec.shape

    def to_json(self) -> dict[str, Any]:
        """The manifest's `latent` object."""
        return {**self.spec.to_json(), "cut": self.cut, "scale": self.scale, "zero_point": self.zero_point}

    @classmethod
    def from_json(cls, node: Node) -> "LatentSpec":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        fields = dict(node.object("kind", "shape", "dtype", "mean", "std", "units", "cut", "scale", "zero_point"))
        cut, scale = node.key("cut").text(), node.key("scale").number()
        zero_point = node.key("zero_point").integer(0, 255)
        node.key("kind").choice("latent")
        spec = {name: value for name, value in fields.items() if name not in ("cut", "scale", "zero_point")}
        try:
            return cls(cut, InputSpec.from_json(Node(spec, node.path, BundleError)), scale, zero_point)
        except ConfigError as error:
            node.fail(str(error))


@dataclass(frozen=True)
class TensorSpec:
    """A graph input, graph output or state slot; dimension 0 may be "N" where any batch size goes."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        """The manifest's object for this tensor."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, node: Node, symbolic: bool) -> "TensorSpec":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        node.object("name", "shape", "dtype")
        shape = read_shape(node.key("shape"), symbolic)
        return cls(node.key("name").text(), shape, node.key("dtype").choice(*DTYPES))


@dataclass(frozen=True)
class ParameterEntry:
    """Where one of the network's tensors lies in flat theta. `kind`: weight | vector | statistic | fixed."""

    name: str
    offset: int
    shape: tuple[int, ...]
    kind: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """The manifest's object for this parameter."""
        return {"name": self.name, "offset": self.offset, "shape": list(self.shape), "kind": self.kind}

    @classmethod
    def from_json(cls, node: Node) -> "ParameterEntry":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        node.object("name", "offset", "shape", "kind")
        offset = node.key("offset").integer(0, MAX_ELEMENTS)
        return cls(node.key("name").text(), offset, _fixed(node.key("shape")), node.key("kind").choice(*KINDS))


@dataclass(frozen=True)
class GraphSpec:
    """An ONNX member and what it takes and gives."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """The manifest's object for this graph."""
        return {
            "file": self.file,
            "inputs": [s.to_json() for s in self.inputs],
            "outputs": [s.to_json() for s in self.outputs],
        }

    @classmethod
    def from_json(cls, node: Node) -> "GraphSpec":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        node.object("file", "inputs", "outputs")
        sides = []
        for side in ("inputs", "outputs"):
            specs = tuple(TensorSpec.from_json(n, symbolic=True) for n in node.key(side).items(256))
            if len({s.name for s in specs}) != len(specs):
                node.key(side).fail("a name appears twice")
            sides.append(specs)
        return cls(node.key("file").text(), *sides)


@dataclass(frozen=True)
class Component:
    """A named piece and its options, e.g. an encoder; the device only records it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest's object for this component."""
        return {"name": self.name, "options": dict(self.options)}

    @classmethod
    def from_json(cls, node: Node) -> "Component":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        node.object("name", "options")
        return cls(node.key("name").text(), node.key("options").object())


@dataclass(frozen=True)
class MemberSpec:
    """Size and SHA-256 (lowercase hex) of a file in the bundle."""

    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The manifest's object for this member."""
        return {"bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, node: Node) -> "MemberSpec":
        """Read what `to_json` wrote; raises BundleError naming the path."""
        node.object("bytes", "sha256")
        sha = node.key("sha256").text(64)
        if len(sha) != 64 or set(sha) - set("0123456789abcdef"):
            node.key("sha256").fail("expected 64 lowercase hex digits")
        return cls(node.key("bytes").integer(1, MAX_BYTES), sha)
