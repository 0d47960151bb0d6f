"""One way to run a graph, whatever runs it: ONNX Runtime on the CPU (the reference), its CUDA and TensorRT providers,
the TensorRT-RTX plugin, or an engine of our own.

    with open_door("cuda", model) as door:
        outputs = door.run({"theta": theta, "x": x})

No door falls back to another: what is missing is an error that names the package, the driver and the command.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import onnxruntime as ort

from edgessl.errors import ConfigError, ExportError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from export.tensorrt.library import Library

Array = np.ndarray[Any, np.dtype[Any]]
DoorName = Literal["cpu", "cuda", "tensorrt", "rtx", "engine"]
RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
_DRIVER = "an NVIDIA driver (580 or newer for CUDA 13; check with: nvidia-smi)"
# door -> its execution provider, and what brings it
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install onnxruntime"),
    "cuda": (
        "CUDAExecutionProvider",
        f"pip install onnxruntime-gpu[cuda,cudnn] in place of onnxruntime, and {_DRIVER}",
    ),
    "tensorrt": (
        "TensorrtExecutionProvider",
        f"pip install onnxruntime-gpu[cuda,cudnn] tensorrt in place of onnxruntime, and {_DRIVER}",
    ),
}


_registered: set[str] = set()  # plugins this process has loaded: onnxruntime takes each once


class Door(Protocol):
    """A graph that can be run: by name in, by name out; a context manager that gives its resources back."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs for `feeds`, which must name every input."""
        ...

    def resident(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """A function that runs the graph once on `feeds`, inputs and outputs staying where it computes, and returns
        when it is done: what a loop costs that keeps its state on the device."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


def open_door(
    name: DoorName,
    model: bytes,
    *,
    library: Library | None = None,
    options: Mapping[str, str] | None = None,
    threads: int = 1,
) -> Door:
    """A door to `model`.

    Args:
        name: "cpu", "cuda", "tensorrt" (ONNX Runtime's provider), "rtx" (its plugin) or "engine" (TensorRT itself).
        model: serialized ONNX; for "engine" a plan from `build_plan`.
        library: which TensorRT runs a plan; needed for "engine".
        options: of the provider, on top of ours.
        threads: for "cpu".

    Raises:
        MissingDependencyError: a package, a library or the driver is missing; the message says how to get it.
        ConfigError: the provider is there and does not start.
        ExportError: the graph or plan does not load.
    """
    if name == "engine":
        if library is None:
            raise ConfigError("door 'engine': give the library that loads the plan: load_library('tensorrt')")
        from export.tensorrt.engine import EngineDoor

        return EngineDoor(library, model)
    if name == "rtx":
        return OrtDoor(*_plugin_session(model, dict(options or {})))
    if name not in _PROVIDERS:
        raise ConfigError(f"door {name!r}: expected one of cpu, cuda, tensorrt, rtx, engine")
    return OrtDoor(*_provider_session(name, model, dict(options or {}), threads))


class OrtDoor:
    """A graph in ONNX Runtime; `device` is where its provider computes."""

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = [value.name for value in session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs for `feeds`."""
        check_feeds(self._inputs, feeds)
        found = self._session.run(self._outputs, dict(feeds), _no_capture())
        return dict(zip(self._outputs, found, strict=True))

    def resident(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """See `Door.resident`."""
        check_feeds(self._inputs, feeds)
        binding = self._session.io_binding()
        held = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(v), self._device, 0) for v in feeds.values()]
        for name, value in zip(feeds, held, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding, _no_capture())
        kept = binding.get_outputs()  # their places, from now on the same at every run
        for name, value in zip(self._outputs, kept, strict=True):
            binding.bind_ortvalue_output(name, value)

        def once(alive: tuple[Any, ...] = (held, kept)) -> None:
            self._session.run_with_iobinding(binding)

        return once

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self._session


def check_feeds(inputs: set[str], feeds: Mapping[str, Array]) -> None:
    """Raise InputError unless `feeds` names every one of `inputs` and nothing else."""
    if set(feeds) != inputs:
        missing, extra = sorted(inputs - set(feeds)), sorted(set(feeds) - inputs)
        raise InputError(f"feeds: missing {missing}, unknown {extra}; this graph takes {sorted(inputs)}")


def relative_errors(found: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """Relative L2 error of every output of the reference; infinite where one is missing or not finite."""
    errors = {}
    for name, value in expected.items():
        wanted = np.asarray(value, np.float64)
        there = np.asarray(found.get(name, np.full(value.shape, np.nan)), np.float64)
        scale, difference = float(np.linalg.norm(wanted)), float(np.linalg.norm(there - wanted))
        error = difference / scale if scale else (0.0 if difference == 0 else math.inf)
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def _no_capture() -> ort.RunOptions:
    """A run outside a CUDA graph, where one is enabled: its tensors lie elsewhere at the next run."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed
    return options


def _provider_session(
    name: str, model: bytes, options: dict[str, str], threads: int
) -> tuple[ort.InferenceSession, str]:
    provider, how = _PROVIDERS[name]
    there = ort.get_available_providers()
    if provider not in there:
        raise MissingDependencyError(
            f"door {name!r}: this onnxruntime {ort.__version__} has no {provider} (it has {', '.join(there)}): {how}"
        )
    if name != "cpu":
        with contextlib.suppress(AttributeError):  # since 1.21: CUDA's libraries from NVIDIA's wheels
            ort.preload_dlls()
        options = {"use_tf32": "0", **options} if name == "cuda" else options
    if name == "cuda":
        model = _narrowed(model)
    try:
        session = ort.InferenceSession(
            model, _session_options(threads), providers=[(provider, options)], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ConfigError(f"door {name!r}: {provider} cannot run the graph: {error}. It takes: {how}") from None
    if session.get_providers()[0] != provider:
        raise ConfigError(
            f"door {name!r}: {provider} is in this onnxruntime and did not start, so it took "
            f"{session.get_providers()[0]}. It takes: {how}"
        )
    return session, "cpu" if name == "cpu" else "cuda"


def _narrowed(model: bytes) -> bytes:
    """The graph with Concats as this provider takes them; portable steps have them already."""
    import onnx  # the other doors do without

    from export.tensorrt.narrow import narrow_concats

    loaded = onnx.load_model_from_string(model)
    narrow_concats(loaded)
    return loaded.SerializeToString()


def _plugin_session(model: bytes, options: dict[str, str]) -> tuple[ort.InferenceSession, str]:
    """A session on the TensorRT-RTX plugin provider."""
    try:
        plugin = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"door 'rtx': the plugin does not load ({error}): pip install {RTX_PACKAGE}, onnxruntime 1.24 or newer, "
            f"and {_DRIVER}"
        ) from None
    if not hasattr(ort, "register_execution_provider_library"):
        raise MissingDependencyError(
            f"door 'rtx': onnxruntime {ort.__version__} takes no plugins: pip install 'onnxruntime>=1.24'"
        )
    name = plugin.get_ep_name()
    if name not in _registered:
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
            _registered.add(name)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise MissingDependencyError(f"door 'rtx': {name} does not load: {error}. It takes {_DRIVER}") from None
    devices = [d for d in ort.get_ep_devices() if d.ep_name == name]
    if not devices:
        raise ConfigError(
            f"door 'rtx': {name} finds no GPU it supports (compute capability 7.5, 8.x or 12.x; not Hopper's 9.0). It "
            f"takes one, and {_DRIVER}"
        )
    settings = _session_options(1)
    settings.add_provider_for_devices(devices[:1], options)
    try:
        return ort.InferenceSession(model, settings), "cuda"
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError(f"door 'rtx': {name} cannot run the graph: {error}") from None
