"""Engines on disk and on the GPU: built, run beside ONNX Runtime, and accepted only when the two agree.

    record = make_engine(bundle, "encoder", "encoder.engine", load_library("tensorrt"))
    with open_engine("encoder.engine", bundle) as door:
        z = door.run({"theta": theta, "x": x})["embedding"]

An engine is two files: the plan as TensorRT wrote it (`trtexec` reads it), and `<plan>.json`, its record: which
bundle and graph it was made of, with what, for which GPU, and the errors measured when it was accepted. A plan can hold
code, so it is loaded only when its SHA-256 is that of its record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgessl.device import Bundle
from edgessl.device.noise import step_noise
from edgessl.device.storage.files import write_atomically
from edgessl.errors import BundleError, ConfigError, ExportError, InputError, ParityError
from export.tensorrt.builder import EngineSettings, build_plan
from export.tensorrt.doors import check_feeds, open_door, relative_errors
from export.tensorrt.driver import Driver
from export.tensorrt.library import Library, load_library

Array = np.ndarray[Any, np.dtype[Any]]
TOLERANCE = 1e-3  # relative L2 error of every output against ONNX Runtime on the CPU; without TF32
INT8_TOLERANCE = 5e-2  # of graphs with Q and DQ: values at the edge of two steps may round either way


@dataclass(frozen=True)
class EngineRecord:
    """What `<plan>.json` says. `bundle`: its digest; `graph`: SHA-256 of the ONNX; `plan`: SHA-256 of the plan."""

    bundle: str
    key: str
    graph: str
    plan: str
    library: str
    gpu: str
    compute_capability: tuple[int, int]
    settings: dict[str, Any]
    errors: dict[str, float]


def make_engine(
    bundle: Bundle, key: str, path: str | Path, library: Library, settings: EngineSettings | None = None, seed: int = 0
) -> EngineRecord:
    """Build the engine of the bundle's graph `key`, run it beside ONNX Runtime, and write it with its record.

    Raises:
        ExportError: the graph is not legal in TensorRT, or TensorRT failed.
        ParityError: an output differs from ONNX Runtime's by more than `TOLERANCE`; nothing was written.
        DriverError: there is no GPU to run it on.
    """
    settings = settings or EngineSettings()
    model = bundle.read(_graph(bundle, key).file)
    plan = build_plan(library, model, settings)
    with Driver() as driver:
        gpu, capability = driver.name, driver.compute_capability()
    feeds = [sample_feeds(bundle, key, rows, seed) for rows in sorted({*settings.batch})]
    tolerance = INT8_TOLERANCE if b"QuantizeLinear" in model else TOLERANCE
    errors = verify_plan(library, plan, model, feeds, tolerance)
    kept = {**asdict(settings), "timing_cache": None if settings.timing_cache is None else str(settings.timing_cache)}
    record = EngineRecord(bundle.digest, key, _sha(model), _sha(plan), library.text, gpu, capability, kept, errors)
    write_atomically(Path(path), plan)
    write_atomically(_beside(path), json.dumps(asdict(record), indent=1).encode())
    return record


def verify_plan(
    library: Library, plan: bytes, model: bytes, feeds: list[dict[str, Array]], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """The largest relative error of each output over `feeds`, plan against ONNX Runtime's CPU.

    Raises:
        ParityError: one is beyond `tolerance`.
    """
    worst: dict[str, float] = {}
    with open_door("cpu", model) as reference, open_door("engine", plan, library=library) as door:
        for given in feeds:
            for name, error in relative_errors(door.run(given), reference.run(given)).items():
                worst[name] = max(worst.get(name, 0.0), error)
    name = max(worst, key=lambda n: worst[n])
    if not worst[name] <= tolerance:
        raise ParityError(
            f"engine: output {name!r} differs from ONNX Runtime by {worst[name]:.1e} (relative); at most "
            f"{tolerance:.0e} is allowed. It was not written; try without tf32, or another TensorRT"
        )
    return worst


def open_engine(path: str | Path, bundle: Bundle) -> EngineDoor:
    """The engine at `path`, made of `bundle`, on the kind of GPU and with the TensorRT that it was accepted with.

    Raises:
        BundleError: no record, another bundle's engine, or a plan that is not the recorded one.
        ExportError: it was accepted with another TensorRT or another kind of GPU: make it anew here.
    """
    try:
        record = EngineRecord(**json.loads(_beside(path).read_bytes()))
        plan = Path(path).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path}: not an engine with its record ({error}); make it with make_engine") from None
    if record.bundle != bundle.digest:
        raise BundleError(
            f"{path}: made of the bundle {record.bundle[:16]}, this is {bundle.digest[:16]}; make an engine of this one"
        )
    if record.plan != _sha(plan):
        raise BundleError(f"{path}: the plan is not the one its record names; make it anew")
    flavour, settings = record.library.split()[0], record.settings
    library = load_library("tensorrt_rtx" if flavour == "tensorrt_rtx" else "tensorrt")
    if library.text != record.library and not settings["version_compatible"]:
        raise ExportError(f"{path}: accepted with {record.library}, here is {library.text}; make it anew")
    with Driver() as driver:
        here = driver.compute_capability()
    if tuple(record.compute_capability) != here and settings["hardware"] == "none":
        there = ".".join(map(str, record.compute_capability))
        raise ExportError(
            f"{path}: for compute capability {there}, this GPU has {here[0]}.{here[1]}; make it anew here"
        )
    return EngineDoor(library, plan, host_code=settings["version_compatible"])


class EngineDoor:
    """A plan on the GPU, as a `Door`.

    Args:
        library: that loads it.
        plan: the serialized engine.
        host_code: let a version-compatible plan run the code it holds.
    """

    def __init__(self, library: Library, plan: bytes, host_code: bool = False) -> None:
        self._api, self._driver = library.api, Driver()
        runtime = self._api.Runtime(self._api.Logger(self._api.Logger.INTERNAL_ERROR))
        runtime.engine_host_code_allowed = host_code
        self._engine = runtime.deserialize_cuda_engine(plan)
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            capability = ".".join(map(str, self._driver.compute_capability()))
            name = self._driver.name
            self._driver.close()
            why = "; RTX takes 7.5, 8.x and 12.x" if library.flavour == "tensorrt_rtx" else "; build it on this GPU"
            raise ConfigError(f"{library.text} cannot load the plan on {name} (compute capability {capability}{why})")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == self._api.TensorIOMode.INPUT for n in names}
        self._inputs, self._outputs = {n for n in names if is_input[n]}, [n for n in names if not is_input[n]]
        self._buffers: dict[str, tuple[int, int]] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs for `feeds`."""
        outputs = self._place(feeds)
        self._execute()
        for name, array in outputs.items():
            self._driver.download(array, self._buffers[name][0])
        return outputs

    def resident(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """See `Door.resident`."""
        self._place(feeds)
        return self._execute

    def _place(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs on the GPU, outputs' places made; empty arrays for the outputs."""
        check_feeds(self._inputs, feeds)
        for name, value in feeds.items():
            array = np.ascontiguousarray(value, self._api.nptype(self._engine.get_tensor_dtype(name)))
            if not self._context.set_input_shape(name, array.shape):
                raise InputError(f"{name!r}: shape {list(array.shape)} is outside what the engine was built for")
            self._driver.upload(self._buffer(name, array.nbytes), array)
        outputs = {}
        for name in self._outputs:
            kind = self._api.nptype(self._engine.get_tensor_dtype(name))
            outputs[name] = np.empty(tuple(self._context.get_tensor_shape(name)), kind)
            self._buffer(name, outputs[name].nbytes)
        for name, (address, _) in self._buffers.items():
            self._context.set_tensor_address(name, address)
        return outputs

    def _buffer(self, name: str, size: int) -> int:
        """The address of at least `size` bytes for tensor `name`."""
        address, there = self._buffers.get(name, (0, -1))
        if there < size:
            if there >= 0:
                self._driver.free(address)
            address = self._driver.allocate(size)
            self._buffers[name] = address, size
        return address

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._driver.stream):
            raise ExportError("TensorRT did not run the engine; its log says why")
        self._driver.synchronize()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for address, _ in self._buffers.values():
            self._driver.free(address)
        self._buffers.clear()
        self._context = self._engine = None
        self._driver.close()


def sample_feeds(bundle: Bundle, key: str, rows: int, seed: int = 0) -> dict[str, Array]:
    """Inputs for the bundle's graph `key`: factory state, hyperparameters, Gaussian samples in the input's units.

    `rows` is the number of samples where the graph leaves it open.
    """
    rng = np.random.default_rng([seed, 45])
    state, manifest = bundle.state(), bundle.manifest
    feeds: dict[str, Array] = {}
    for spec in _graph(bundle, key).inputs:
        shape = tuple(rows if isinstance(d, str) else d for d in spec.shape)
        if spec.name in state:
            feeds[spec.name] = state[spec.name]
        elif spec.name == "noise":
            feeds[spec.name] = step_noise(seed, 0, shape)
        elif spec.name.startswith("hyper."):
            feeds[spec.name] = np.array(manifest.hyper[spec.name.removeprefix("hyper.")], np.float32)
        else:
            feeds[spec.name] = _samples(rng, shape, bundle if spec.name in ("x", "batch") else None)
    return feeds


def _samples(rng: np.random.Generator, shape: tuple[int, ...], bundle: Bundle | None) -> Array:
    values = rng.standard_normal(shape)
    spec = None if bundle is None else bundle.manifest.input
    if spec is not None and spec.kind == "tokens":
        return rng.integers(0, spec.vocabulary, shape).astype(np.float32)
    if spec is not None and shape[1:] == tuple(spec.shape):
        channel = (1, -1, *[1] * (len(spec.shape) - 1))
        values = np.asarray(spec.mean).reshape(channel) + np.asarray(spec.std).reshape(channel) * values
    return values.astype(np.float32)


def _graph(bundle: Bundle, key: str) -> Any:
    if key not in bundle.manifest.graphs:
        raise BundleError(f"graph {key!r} is not in this bundle; it has {', '.join(bundle.manifest.graphs)}")
    return bundle.manifest.graphs[key]


def _beside(path: str | Path) -> Path:
    return Path(f"{path}.json")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
