"""manifest.json: the description of a bundle, validated by hand before anything else is believed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgessl.device.bundle.specs import (
    KINDS,
    MAX_ELEMENTS,
    MAX_PARAMETERS,
    Component,
    GraphSpec,
    InputSpec,
    LatentSpec,
    MemberSpec,
    ParameterEntry,
    TensorSpec,
)
from edgessl.device.storage import strictjson
from edgessl.errors import BundleError

FORMAT = "edgessl-bundle"
VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20
STATE_FILE = "state.safetensors"
METRICS = ("loss", "grad_norm", "embedding_std", "effective_rank")
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Manifest:
    """Everything a device must know before it runs a bundle's graphs; see docs/bundle.md for every field."""

    name: str
    input: InputSpec
    embedding_dim: int
    encoder: Component
    objective: Component
    optimizer: Component
    views: tuple[Component, ...]
    parameters: tuple[ParameterEntry, ...]
    slots: tuple[TensorSpec, ...]
    hyper: Mapping[str, float]
    graphs: Mapping[str, GraphSpec]
    opset: int = 20
    ir_version: int = 10
    members: Mapping[str, MemberSpec] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    latent: LatentSpec | None = None
    strategy: Component | None = None

    @property
    def embed_slot(self) -> str:
        """The slot whose weights the encoder graph takes: theta, or a slower copy that a strategy keeps."""
        return next(s.name for s in self.graphs["encoder"].inputs if s.name != "x")

    @property
    def stores(self) -> bool:
        """Whether a training step takes the embeddings stored with the samples."""
        return any(s.name == "stored" for s in self.graphs["train"].inputs)

    @property
    def cut(self) -> str | None:
        """The stage after which the encoder was cut; None when all of it learns."""
        return self.latent.cut if self.latent else None

    @property
    def learned(self) -> InputSpec:
        """What is remembered, what the encoder graph takes and what a training step sees: latents after a cut, else
        samples."""
        return self.latent.spec if self.latent else self.input

    @property
    def theta_size(self) -> int:
        """Number of float32 in flat theta."""
        return sum(p.size for p in self.parameters)

    @property
    def batch_size(self) -> int:
        """Samples per training step."""
        return int(self.train_input("batch").shape[0])

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(batch_size, width) of the step's noise input."""
        n, width = self.train_input("noise").shape
        return int(n), int(width)

    def train_input(self, name: str) -> TensorSpec:
        """The training graph's input called `name`."""
        return next(s for s in self.graphs["train"].inputs if s.name == name)

    def to_bytes(self) -> bytes:
        """manifest.json: sorted keys, two spaces, UTF-8; the same manifest gives the same bytes."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "input": self.input.to_json(),
            "embedding_dim": self.embedding_dim,
            "encoder": self.encoder.to_json(),
            "objective": self.objective.to_json(),
            "optimizer": self.optimizer.to_json(),
            "views": [v.to_json() for v in self.views],
            "parameters": [p.to_json() for p in self.parameters],
            "slots": [s.to_json() for s in self.slots],
            "hyper": dict(self.hyper),
            "graphs": {k: g.to_json() for k, g in self.graphs.items()},
            "opset": self.opset,
            "ir_version": self.ir_version,
            "members": {k: m.to_json() for k, m in self.members.items()},
            "parity": dict(self.parity),
            "provenance": dict(self.provenance),
            **({"latent": self.latent.to_json()} if self.latent else {}),
            **({"strategy": self.strategy.to_json()} if self.strategy else {}),
        }
        try:
            text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
            return text.encode() + b"\n"
        except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
            raise BundleError(f"manifest cannot be written as JSON: {error}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read and validate manifest.json; raises BundleError naming the JSON path of what is wrong."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(f"manifest of {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
        try:
            top = strictjson.Node(strictjson.parse(data), "", BundleError)
        except ValueError as error:
            raise BundleError(f"manifest.json is not valid JSON: {error}") from None
        top.key("format").choice(FORMAT)
        version = top.key("version").integer(0, 1 << 31)
        if version != VERSION:
            top.key("version").fail(
                f"found {version}, this edgessl supports {VERSION}; update edgessl or export the bundle again"
            )
        manifest = cls(
            name=top.key("name").text(),
            input=InputSpec.from_json(top.key("input")),
            embedding_dim=top.key("embedding_dim").integer(1, 1 << 20),
            encoder=Component.from_json(top.key("encoder")),
            objective=Component.from_json(top.key("objective")),
            optimizer=Component.from_json(top.key("optimizer")),
            views=tuple(Component.from_json(n) for n in top.key("views").items(256)),
            parameters=tuple(ParameterEntry.from_json(n) for n in top.key("parameters").items(MAX_PARAMETERS)),
            slots=tuple(TensorSpec.from_json(n, symbolic=False) for n in top.key("slots").items(64)),
            hyper={k: n.number() for k, n in top.key("hyper").members(64).items()},
            graphs={k: GraphSpec.from_json(n) for k, n in top.key("graphs").members(16).items()},
            opset=top.key("opset").integer(1, 1 << 10),
            ir_version=top.key("ir_version").integer(1, 1 << 10),
            members={k: MemberSpec.from_json(n) for k, n in top.key("members").members(32).items()},
            parity=top.key("parity").object(),
            provenance=top.key("provenance").object(),
            latent=LatentSpec.from_json(top.key("latent")) if "latent" in top.object() else None,
            strategy=Component.from_json(top.key("strategy")) if "strategy" in top.object() else None,
        )
        manifest._check()
        return manifest

    def _check(self) -> None:
        """What no single field can tell: the parts fit together."""
        self._check_parameters()
        for name in self.members:
            if not _MEMBER_NAME.fullmatch(name) or name in ("manifest.json", "model.sig"):
                raise BundleError(f"members: {name!r} is not a plain file name")
        if STATE_FILE not in self.members:
            raise BundleError(f"members: {STATE_FILE} is missing")
        for key in ("encoder", "train"):
            if key not in self.graphs:
                raise BundleError(f"graphs: {key!r} is missing")
        for key, graph in self.graphs.items():
            if graph.file not in self.members:
                raise BundleError(f"graphs.{key}.file: {graph.file!r} is not among the members")
        if self.input.kind == "latent":
            raise BundleError("input.kind: samples are not latents; the manifest's `latent` describes those")
        if (
            self.latent and self.latent.shape == self.input.shape
        ):  # who ignores `latent` must not take one for the other
            raise BundleError(f"latent.shape: {list(self.latent.shape)} is the shape of a sample too; cut elsewhere")
        samples, x = TensorSpec("x", ("N", *self.input.shape)), TensorSpec("x", ("N", *self.learned.shape))
        embedding = TensorSpec("embedding", ("N", self.embedding_dim))
        weights = {s.name for s in self.graphs["encoder"].inputs} & {s.name for s in self.slots}
        shown = weights.pop() if len(weights) == 1 else "theta"
        self._check_side("encoder.inputs", self.graphs["encoder"].inputs, (TensorSpec(shown, self.slots[0].shape), x))
        self._check_side("encoder.outputs", self.graphs["encoder"].outputs, (embedding,))
        if "encoder_int8" in self.graphs:
            self._check_side("encoder_int8.inputs", self.graphs["encoder_int8"].inputs, (samples,))
            self._check_side("encoder_int8.outputs", self.graphs["encoder_int8"].outputs, (embedding,))
        if self.latent:
            if "backbone" not in self.graphs:
                raise BundleError("graphs: 'backbone' is missing; a bundle with `latent` needs it")
            latent = TensorSpec("latent", ("N", *self.latent.shape))
            self._check_side("backbone.inputs", self.graphs["backbone"].inputs, (samples,))
            self._check_side("backbone.outputs", self.graphs["backbone"].outputs, (latent,))
            if "tail_int8" in self.graphs:
                self._check_side("tail_int8.inputs", self.graphs["tail_int8"].inputs, (x,))
                self._check_side("tail_int8.outputs", self.graphs["tail_int8"].outputs, (embedding,))
        self._check_train(self.graphs["train"])
        self._check_consolidation()

    def _check_parameters(self) -> None:
        end, last, names = 0, 0, set()
        for i, p in enumerate(self.parameters):
            kind = KINDS.index(p.kind)
            if p.offset != end:
                raise BundleError(f"parameters[{i}].offset: found {p.offset}, expected {end} (contiguous from 0)")
            if kind < last:
                raise BundleError(f"parameters[{i}].kind: {p.kind!r} after {KINDS[last]!r}; order: {', '.join(KINDS)}")
            if p.name in names:
                raise BundleError(f"parameters[{i}].name: {p.name!r} appears twice")
            names.add(p.name)
            end, last = end + p.size, kind
        if end > MAX_ELEMENTS:
            raise BundleError(f"parameters: {end} numbers, at most {MAX_ELEMENTS} are allowed")
        if len({s.name for s in self.slots}) != len(self.slots):
            raise BundleError("slots: a name appears twice")
        if not self.slots or self.slots[0] != TensorSpec("theta", (end,)):
            raise BundleError(f"slots[0]: expected theta, float32, shape [{end}] (the size of the parameters)")

    def _check_side(self, path: str, found: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]) -> None:
        if {s.name: s for s in found} != {s.name: s for s in expected}:
            want = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in expected)
            have = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in found)
            raise BundleError(f"graphs.{path}: expected {want}; found {have}")

    def _check_train(self, graph: GraphSpec) -> None:
        shapes = {s.name: s.shape for s in graph.inputs}
        n, width = (*shapes.get("noise", ()), 0, 0)[:2]
        if not isinstance(n, int) or not isinstance(width, int) or n < 1 or width < 1:
            raise BundleError("graphs.train.inputs: expected noise of shape [batch, width], both numbers")
        batch = TensorSpec("batch", (n, *self.learned.shape))
        hyper = tuple(TensorSpec(f"hyper.{k}", ()) for k in self.hyper)
        stored = (TensorSpec("stored", (n, self.embedding_dim)),) if "stored" in shapes else ()
        wanted = (*self.slots, batch, TensorSpec("noise", (n, width)), *hyper, *stored)
        self._check_side("train.inputs", graph.inputs, wanted)
        following = tuple(TensorSpec(f"next.{s.name}", s.shape, s.dtype) for s in self.slots)
        extra = tuple(s for s in graph.outputs if s.shape == () and s.dtype == "float32" and s.name not in METRICS)
        scalars = tuple(TensorSpec(m, ()) for m in METRICS)
        names = {s.name for s in following}
        extra = tuple(s for s in extra if s.name not in names)
        self._check_side("train.outputs", graph.outputs, (*following, *scalars, *extra))

    def _check_consolidation(self) -> None:
        importance = TensorSpec("importance", self.slots[0].shape)
        if "importance" in self.graphs:
            if "consolidate" not in self.graphs:
                raise BundleError("graphs: 'importance' is there, 'consolidate' that would use it is missing")
            x, probe = TensorSpec("x", (1, *self.learned.shape)), TensorSpec("probe", (1, self.embedding_dim))
            self._check_side("importance.inputs", self.graphs["importance"].inputs, (self.slots[0], x, probe))
            self._check_side("importance.outputs", self.graphs["importance"].outputs, (importance,))
        if "consolidate" in self.graphs:
            hyper = tuple(TensorSpec(f"hyper.{k}", ()) for k in self.hyper)
            measured = (importance,) if "importance" in self.graphs else ()
            following = tuple(TensorSpec(f"next.{s.name}", s.shape, s.dtype) for s in self.slots)
            self._check_side("consolidate.inputs", self.graphs["consolidate"].inputs, (*self.slots, *hyper, *measured))
            self._check_side("consolidate.outputs", self.graphs["consolidate"].outputs, following)
