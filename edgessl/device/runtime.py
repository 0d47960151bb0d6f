"""A bundle's graphs in onnxruntime: checked against the manifest, no fallback, no copies of the state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgessl.device.budget import cap_arena, one_arena, short_of
from edgessl.device.bundle.archive import Bundle
from edgessl.device.bundle.onnxwire import with_constant
from edgessl.device.bundle.specs import GraphSpec, TensorSpec
from edgessl.device.halves import HalvesSession, made_again
from edgessl.device.runners import Weights
from edgessl.device.samples import in_batches
from edgessl.device.slots import Slots
from edgessl.device.storage.tensors import Array
from edgessl.errors import BudgetError, BundleError, ConfigError, InputError

Float = npt.NDArray[np.float32]
Session = TypeVar("Session", ort.InferenceSession, HalvesSession)
_ORT_TYPES = {"float32": "float", "float64": "double", "float16": "float16"}


@dataclass(frozen=True)
class SessionProfile:
    """How onnxruntime uses the machine.

    `threads`: compute threads; `spinning`: let idle threads spin (about a tenth faster, costs energy);
    `provider`: an execution provider by its onnxruntime name, an error when this build does not have it.
    `arena_bytes`: what all sessions of the process may allocate together, see budget.cap_arena; 0 sets no cap.
    `arena`: keep what a run allocated for the next one; False, without a cap: the C library has it back after each.
    `halves`: with two threads or more, run the two halves of a training step at once where its graph names them: up to
    a quarter faster, for a quarter more memory than one after the other; not where `arena_bytes` caps it.
    """

    threads: int = 1
    spinning: bool = False
    provider: str = "CPUExecutionProvider"
    arena_bytes: int = 0
    arena: bool = True
    halves: bool = True

    def step_session(self, model: bytes, what: str) -> ort.InferenceSession | HalvesSession:
        """As `session`, for a training step. Where the graph names its halves they run at once; or, where they cannot,
        one after the other, which takes a fifth less memory than the whole graph and as long. But where the error
        function is among what they make again, the whole graph in the order of its nodes takes as little, and less
        time (docs/step.md)."""
        again = made_again(model)
        if again is None:
            return self.session(model, what)
        at_once = self.halves and self.threads > 1 and not self.arena_bytes
        if not at_once and "Erf" in again:
            return self.session(model, what, in_order=True)
        half = replace(self, threads=self.threads // 2)
        if self.arena_bytes:
            return HalvesSession(model, lambda part, beside: self.session(part, what), at_once=False)
        with one_arena() as shared:
            return HalvesSession(
                model, lambda part, beside: (half if beside else self).session(part, what, shared=shared), at_once
            )

    def session(
        self, model: bytes, what: str, *, constant: bool = False, in_order: bool = False, shared: bool = False
    ) -> ort.InferenceSession:
        """A session of serialized ONNX; ConfigError without the provider, BundleError for a bad graph.

        `constant`: all weights are constants, so onnxruntime may fold them and lay tensors out in blocks of channels.
        `in_order`: run the nodes in the order they are in, not in onnxruntime's. `shared`: see budget.one_arena.
        """
        if self.threads < 1:
            raise ConfigError(f"threads must be >= 1, found {self.threads}")
        if self.provider not in (there := ort.get_available_providers()):
            raise ConfigError(
                f"execution provider {self.provider!r} is not in this onnxruntime, which has "
                f"{', '.join(there)}; install a build that has it or name one of these"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a third less memory for at most 1% of time
        options.enable_cpu_mem_arena = self.arena
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if constant else level.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        if in_order:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.log_severity_level = 4  # what goes wrong is raised; nothing is printed
        if self.arena_bytes:
            cap_arena(self.arena_bytes)
        if self.arena_bytes or (shared and self.arena):
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = ort.InferenceSession(model, options, providers=[self.provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if short := short_of(error):
                raise BudgetError(f"{what}: {short}") from None
            raise BundleError(f"{what}: onnxruntime {ort.__version__} cannot load the graph: {error}") from None
        session.disable_fallback()
        if session.get_providers()[0] != self.provider:
            raise ConfigError(
                f"execution provider {self.provider!r} failed to start and onnxruntime took "
                f"{session.get_providers()[0]}; check its libraries, or name that one to accept it"
            )
        return session


def _open(bundle: Bundle, key: str, make: Callable[[bytes, str], Session]) -> Session:
    """The session of the manifest's graph `key`; its real inputs and outputs must be those the manifest states."""
    if key not in bundle.manifest.graphs:
        raise BundleError(f"graph {key!r} is not in this bundle; it has {', '.join(bundle.manifest.graphs)}")
    spec: GraphSpec = bundle.manifest.graphs[key]
    session = make(bundle.read(spec.file), spec.file)
    for side, wanted, found in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        real = {node.name: (node.type, node.shape) for node in found}
        if set(real) != {s.name for s in wanted}:
            raise BundleError(f"{spec.file}: {side} {sorted(real)}, the manifest says {sorted(s.name for s in wanted)}")
        for s in wanted:
            if not _agree(s, *real[s.name]):
                kind, shape = real[s.name]
                raise BundleError(
                    f"{spec.file}: {s.name!r} is {kind}{shape}, the manifest says {s.dtype}{list(s.shape)}"
                )
    return session


def _agree(spec: TensorSpec, kind: str, shape: list[int | str | None]) -> bool:
    if kind != f"tensor({_ORT_TYPES.get(spec.dtype, spec.dtype)})" or len(shape) != len(spec.shape):
        return False
    return all(a == b if isinstance(a, int) else not isinstance(b, int) for a, b in zip(spec.shape, shape, strict=True))


def _run(
    session: ort.InferenceSession | HalvesSession, outputs: list[str], feeds: Mapping[str, ort.OrtValue]
) -> list[ort.OrtValue]:
    """The session's outputs; BudgetError when the arena's cap is too small for them."""
    try:
        return list(session.run_with_ort_values(outputs, feeds))
    except Exception as error:  # onnxruntime's exceptions share no base class
        if short := short_of(error):
            raise BudgetError(short) from None
        raise


def _value(array: Array) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(array)  # on the CPU a view: the array must not change under it


class EncoderRunner:
    """Embeds with `encoder.onnx`: weights are an input, so it follows the learner."""

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None) -> None:
        self._bundle, self._profile = bundle, profile or SessionProfile()
        self._session = _open(bundle, "encoder", self._profile.session)
        self._slot = bundle.manifest.embed_slot

    def embed(self, theta: Float | ort.OrtValue, x: Float) -> Float:
        """Embeddings (N, D) float32 of samples `x` (N, *shape) with flat weights `theta` (P,)."""
        weights = _value(np.ascontiguousarray(theta)) if isinstance(theta, np.ndarray) else theta
        feeds = {self._slot: weights, "x": _value(np.ascontiguousarray(x))}
        value = _run(self._session, ["embedding"], feeds)[0]
        out: Float = value.numpy().copy()  # numpy() may be a view that dies with `value`
        return out

    def settled(self, theta: Weights) -> Callable[[Float], Float]:
        """Embeds with `theta` alone, as constants of the graph, in a session of its own.

        onnxruntime lays tensors out in blocks of channels and folds norms for constants only: up to five times as fast.
        """
        file = self._bundle.manifest.graphs["encoder"].file
        model = with_constant(self._bundle.read(file), self._slot, np.asarray(theta.numpy()))
        session = self._profile.session(model, f"{file}, settled", constant=True)

        def embed(x: Float) -> Float:
            out: Float = session.run(["embedding"], {"x": np.ascontiguousarray(x)})[0]
            return out

        return embed


class FrozenEncoderRunner:
    """Embeds with `encoder.int8.onnx`: the factory weights, quantized; for devices that only infer."""

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None) -> None:
        self._session = _open(bundle, "encoder_int8", (profile or SessionProfile()).session)

    def embed(self, x: Float) -> Float:
        """Embeddings (N, D) float32 of samples `x` (N, *shape)."""
        out: Float = self._session.run(["embedding"], {"x": np.ascontiguousarray(x)})[0]
        return out


class BackboneRunner:
    """Runs `backbone.int8.onnx`, the frozen part up to the cut: samples become the latents that a learner works on."""

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None) -> None:
        self._session = _open(bundle, "backbone", (profile or SessionProfile()).session)
        self._rows = bundle.manifest.batch_size

    def latents(self, x: Float) -> Float:
        """Latents (N, *latent) float32 of samples `x` (N, *shape), a training batch at a time: memory stays bounded."""
        return in_batches(lambda part: self._session.run(["latent"], {"x": part})[0], x, self._rows)


class StepRunner(Slots[ort.OrtValue]):
    """Runs `train.onnx` and owns the state between steps, as onnxruntime's own tensors.

    A session is made when a graph is first run: who only embeds pays neither its time nor its memory. BundleError for
    a graph that is not what the manifest says comes then.
    """

    def __init__(self, bundle: Bundle, profile: SessionProfile | None = None) -> None:
        super().__init__(bundle.manifest, bundle.state())
        self._bundle, self._profile = bundle, profile or SessionProfile()
        self._sessions: dict[str, ort.InferenceSession | HalvesSession] = {}
        self._slots = [s.name for s in self.manifest.slots]
        self._outputs = [s.name for s in self.manifest.graphs["train"].outputs]
        following = {f"next.{name}" for name in self._slots}
        self._metrics = [name for name in self._outputs if name not in following]

    def _placed(self, array: Array) -> ort.OrtValue:
        return _value(array)

    def _copied(self, value: ort.OrtValue) -> Array:
        return np.array(value.numpy())

    def step(
        self, batch: Float, noise: Float, hyper: Mapping[str, float], stored: Float | None = None
    ) -> dict[str, float]:
        """One training step on `batch` (N, *shape) and `noise` (N, width); returns the scalar metrics.

        `stored` (N, D): the embeddings stored with the samples, where the manifest `stores`, else nothing. Raises
        InputError for other shapes or dtypes, or unless `hyper` holds exactly the manifest's names.
        """
        if (stored is None) == self.manifest.stores:
            raise InputError(f"stored: this step takes {'' if self.manifest.stores else 'no '}stored embeddings")
        given = {"batch": batch, "noise": noise} | ({} if stored is None else {"stored": stored})
        for name, array in given.items():
            shape = self.manifest.train_input(name).shape
            if array.shape != shape or array.dtype != np.float32:
                found = f"{array.dtype}{list(array.shape)}"
                raise InputError(f"{name}: expected float32{list(shape)}, found {found}")
        feeds = {**self._values, **self._scalars(hyper)}
        feeds.update({name: _value(np.ascontiguousarray(array)) for name, array in given.items()})
        self._previous = None  # two copies of the state at most, not three
        values = dict(zip(self._outputs, _run(self._session("train"), self._outputs, feeds), strict=True))
        self._previous, self._values = self._values, {s: values[f"next.{s}"] for s in self._slots}
        return {name: float(values[name].numpy()) for name in self._metrics}

    def consolidate(self, samples: Float, probes: Float, hyper: Mapping[str, float]) -> None:
        """What was learned so far becomes the past; there is nothing to take back then.

        With a graph `importance`: its mean over `samples` (N, *shape), N >= 1, taken one by one with the random signs
        `probes` (N, D). Without a graph `consolidate`, a slot `anchor` of theta's shape is set to theta.
        """
        self._previous = None
        if "consolidate" not in self.manifest.graphs:
            self._anchor()
            return
        feeds = {**self._values, **self._scalars(hyper)}
        if "importance" in self.manifest.graphs:
            importance = self._session("importance")
            total = np.zeros(self.manifest.theta_size, np.float32)
            for i in range(len(samples)):
                sample = {"x": _value(samples[i : i + 1]), "probe": _value(probes[i : i + 1]), "theta": self.theta}
                total += importance.run_with_ort_values(["importance"], sample)[0].numpy()
            feeds["importance"] = _value(total / np.float32(len(samples)))
        outputs = [f"next.{name}" for name in self._slots]
        values = self._session("consolidate").run_with_ort_values(outputs, feeds)
        self._values = dict(zip(self._slots, values, strict=True))

    def _session(self, graph: str) -> ort.InferenceSession | HalvesSession:
        if graph not in self._sessions:
            make = self._profile.step_session if graph == "train" else self._profile.session
            self._sessions[graph] = _open(self._bundle, graph, make)
        return self._sessions[graph]

    def _scalars(self, hyper: Mapping[str, float]) -> dict[str, ort.OrtValue]:
        if set(hyper) != set(self.manifest.hyper):
            raise InputError(f"hyper: expected {sorted(self.manifest.hyper)}, found {sorted(hyper)}")
        return {f"hyper.{k}": _value(np.array(v, np.float32)) for k, v in hyper.items()}
