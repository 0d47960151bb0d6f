"""ONNX graph -> TensorRT plan: strongly typed, one optimisation profile, options for caches, limits and compatibility.

    library = load_library("tensorrt")
    plan = build_plan(library, bundle.read("encoder.onnx"), EngineSettings(batch=(1, 8, 64)))

Precision comes from the graph alone: float32 as exported, int8 where it has QuantizeLinear and DequantizeLinear. The
parameters are an input of our graphs, so one engine serves every state of a learner; refit is for frozen graphs.
A plan is not to be used before it ran beside ONNX Runtime: `export.tensorrt.engine` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from edgessl.errors import ConfigError, ExportError
from export.tensorrt.legality import check
from export.tensorrt.library import Library, refuse_refit

Array = np.ndarray[Any, np.dtype[Any]]
Hardware = Literal["none", "ampere_plus", "same_compute_capability"]


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is built.

    Args:
        batch: fewest, usual and most samples a call brings, for graphs whose first dimension is open.
        workspace_bytes: GPU memory a layer may use for scratch.
        timing_cache: file of kernel timings, read if it exists and written after: later builds are fast and alike.
        version_compatible: the plan runs on later versions too (10 on 11); it then holds host code, is slower, and is
            loaded only when its record says which file it is.
        hardware: which other GPUs run the plan.
        tf32: allow 10-bit mantissas in float32 products; faster, and off by a thousandth.
        refit: names of weights (initializers) that can be exchanged in the built engine.
        optimization_level: 0 builds fast, 5 searches long; None is TensorRT's default.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    workspace_bytes: int = 1 << 30
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: Hardware = "none"
    tf32: bool = False
    refit: tuple[str, ...] = ()
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        least, usual, most = self.batch
        if not 1 <= least <= usual <= most:
            raise ConfigError(f"batch: expected 1 <= fewest <= usual <= most, found {self.batch}")
        if self.workspace_bytes < 1:
            raise ConfigError(f"workspace_bytes: expected at least 1, found {self.workspace_bytes}")


def build_plan(library: Library, model: bytes, settings: EngineSettings | None = None) -> bytes:
    """A serialized engine of the ONNX `model`, for the GPU at hand (RTX: without one, for any it supports).

    Raises:
        ExportError: the graph breaks TensorRT's rules, or TensorRT refused to parse or build it; the reasons are named.
        ConfigError: a setting this TensorRT does not have, or refit with a version whose refit is wrong.
    """
    settings = settings or EngineSettings()
    if settings.refit:
        refuse_refit(library.flavour, library.version)
    verdict = check(onnx.load_model_from_string(model))
    if not verdict.legal:
        listed = "\n  ".join(map(str, verdict.violations[:8]))
        raise ExportError(f"{len(verdict.violations)} things in this graph are not legal in TensorRT:\n  {listed}")
    api, log = library.api, _log(library)
    builder = api.Builder(log)
    network = builder.create_network(library.network_flags())
    parser = api.OnnxParser(network, log)
    if not parser.parse(model):
        reasons = "; ".join(parser.get_error(i).desc().strip() for i in range(parser.num_errors))
        raise ExportError(f"{library.text} cannot parse the graph, although the static check found nothing: {reasons}")
    for name in settings.refit:
        if not network.mark_weights_refittable(name):
            raise ConfigError(
                f"refit: no weight {name!r} in the network; its names are those of the graph's initializers"
            )
    config = builder.create_builder_config()
    _configure(library, config, settings)
    _add_profile(builder, network, config, settings.batch)
    cache = _timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{library.text} did not build the engine: {'; '.join(log.errors) or 'no reason given'}")
    if settings.timing_cache is not None and cache is not None:
        settings.timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _log(library: Library) -> Any:
    """A logger that keeps what went wrong, for the message of our error; TensorRT's own goes to stderr."""

    class Log(library.api.ILogger):  # type: ignore[name-defined]
        """Keeps errors."""

        def __init__(self) -> None:
            library.api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """TensorRT calls this."""
            if severity in (library.api.Logger.ERROR, library.api.Logger.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Log()


def _configure(library: Library, config: Any, settings: EngineSettings) -> None:
    api = library.api
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.tf32:
        config.set_flag(api.BuilderFlag.TF32)
    else:
        config.clear_flag(api.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware != "none":
        level = getattr(api.HardwareCompatibilityLevel, settings.hardware.upper(), None)
        if level is None:
            raise ConfigError(f"hardware {settings.hardware!r}: {library.text} does not have this level")
        config.hardware_compatibility_level = level
    if settings.refit:
        config.set_flag(api.BuilderFlag.REFIT_INDIVIDUAL)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level


def _add_profile(builder: Any, network: Any, config: Any, batch: tuple[int, int, int]) -> None:
    """One profile for all inputs with an open first dimension; only that one may be open."""
    profile, used = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise ExportError(f"input {tensor.name!r} has shape {shape}: only the first dimension may be open")
        if shape[:1] == (-1,):
            profile.set_shape(tensor.name, *((n, *shape[1:]) for n in batch))
            used = True
    if used:
        config.add_optimization_profile(profile)


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, False):
        raise ConfigError(f"{path}: a timing cache of another TensorRT or GPU; delete it to start a new one")
    return cache


def refit_plan(library: Library, plan: bytes, weights: Mapping[str, Array]) -> bytes:
    """`plan` with other values for weights that were named in `EngineSettings.refit`; needs the GPU.

    Check its outputs before using it (`export.tensorrt.engine.verify_plan` against the graph with those weights):
    version 11.3 is refused, others were seen to be wrong elsewhere.

    Raises:
        ConfigError: a version whose refit is wrong, or a weight the engine does not take.
        ExportError: weights are missing, or TensorRT failed.
    """
    refuse_refit(library.flavour, library.version)
    api, log = library.api, _log(library)
    engine = api.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"{library.text} cannot load the plan: {'; '.join(log.errors)}")
    refitter = api.Refitter(engine, log)
    kept = {name: np.ascontiguousarray(value) for name, value in weights.items()}  # alive until the engine has them
    for name, value in kept.items():
        if not refitter.set_named_weights(name, api.Weights(value)):
            known = ", ".join(sorted(refitter.get_all_weights())[:8])
            raise ConfigError(
                f"refit: the engine does not take {name!r} {value.dtype}{list(value.shape)}; it has {known}"
            )
    if missing := refitter.get_missing_weights():
        raise ExportError(f"refit: {', '.join(sorted(missing))} must be given too")
    if not refitter.refit_cuda_engine():
        raise ExportError(f"refit failed: {'; '.join(log.errors)}")
    serialization = engine.create_serialization_config()
    serialization.set_flag(api.SerializationFlag.INCLUDE_REFIT)
    return bytes(engine.serialize_with_config(serialization))
