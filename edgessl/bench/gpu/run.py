"""Encoder and training step on an NVIDIA GPU: torch eager beside the exported graphs through each door.

Every contender starts from the same state and inputs, already on the GPU, and leaves its results there; a run is over
when the GPU is. Numbers come first: each contender's outputs are compared with onnxruntime's on the CPU, and a door
that does not open says why.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgessl.bench.case import build_step, input_of
from edgessl.device.noise import step_noise
from edgessl.device.storage.files import write_atomically
from edgessl.encoders.base import evaluation_mode
from edgessl.errors import ConfigError, EdgeSSLError
from edgessl.machine import machine, versions
from edgessl.step import TrainStep, hyper_tensors
from export.lowerings import Lowerings
from export.parity import random_fields
from export.tensorrt.builder import EngineSettings, build_plan
from export.tensorrt.doors import Door, open_door, relative_errors
from export.tensorrt.library import load_library
from export.trace import following, trace_encoder, trace_step

# contender -> the door, the options of its provider, and which TensorRT
DOORS: dict[str, tuple[str, dict[str, str], str]] = {
    "cuda": ("cuda", {}, ""),
    "cuda_graph": ("cuda", {"enable_cuda_graph": "1"}, ""),
    "tensorrt": ("tensorrt", {}, ""),
    "rtx": ("rtx", {}, ""),
    "engine": ("engine", {}, "tensorrt"),
    "engine_rtx": ("engine", {}, "tensorrt_rtx"),
}
PARTS = ("encoder", "step")
WARM = 10
Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]


def run(
    encoders: Sequence[str] = ("ds_cnn_s", "resnet8", "resnet18", "vit"),
    contenders: Sequence[str] = ("torch", *DOORS),
    *,
    parts: Sequence[str] = PARTS,
    graphs: str = "",
    batch_sizes: Sequence[int] = (1, 32, 256),
    step_batch: int = 32,
    turns: int = 100,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time and check encoders (evaluation) and training steps (VICReg, SGD) on the GPU.

    Args:
        encoders: names for `edgessl.encoders.build_encoder`.
        contenders: "torch" and names of `DOORS`; none only fills `graphs`, which takes no GPU.
        parts: "encoder", "step" or both.
        graphs: a folder for the exported graphs; one that is there already is not exported again.
        batch_sizes: samples per call of the encoder.
        step_batch: samples per training step; each has two views.
        turns: timed runs of each contender.
        progress: told in a line what is being done.

    Returns:
        {"bench", "machine", "gpu", "versions", "settings", "rows"}. A row: encoder, graph ("encoder" or "step"),
        batch_size, contender; `median_ms` and `p90_ms` of `turns` runs, `worst_error` (relative L2, of the output
        `worst_output`, against onnxruntime on the CPU), `setup_s` (session or engine), `error` (None, or why the
        contender did not run; the rest is None then).

    Raises:
        ConfigError: torch sees no GPU, or an unknown contender or part.
    """
    for what, given, known in (("contenders", contenders, ("torch", *DOORS)), ("parts", parts, PARTS)):
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(f"{what}: unknown {unknown[0]!r}; known: {', '.join(known)}")
    if contenders and not torch.cuda.is_available():
        raise ConfigError(f"torch {torch.__version__} sees no NVIDIA GPU here; check the driver with: nvidia-smi")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # compare float32 with float32
    rows: list[Row] = []
    for name in encoders:
        progress(f"{name}: graphs")
        step = build_step(name, "vicreg")
        encoder = b""
        if "encoder" in parts:
            encoder = _graph(graphs, f"{name}.encoder.onnx", partial(trace_encoder, step.parts.encoder, step.layout))
        for n in batch_sizes if "encoder" in parts else ():
            feeds = {"theta": step.initial_state()["theta"].numpy(), "x": random_fields(input_of(name), n, 0)}
            case = (name, "encoder", n, encoder, feeds, lambda f, s=step: _torch_encoder(s, f))
            rows += _measure(*case, contenders, turns, progress)
        if "step" in parts:
            trace = partial(trace_step, step, (step_batch, *input_of(name).shape), Lowerings("portable"))
            train = _graph(graphs, f"{name}.step{step_batch}.onnx", trace)
            feeds = _step_feeds(step, name, step_batch)
            case = (name, "step", step_batch, train, feeds, lambda f, s=step: _torch_step(s, f))
            rows += _measure(*case, contenders, turns, progress)
    return {
        "bench": "gpu",
        "machine": machine(),
        "gpu": torch.cuda.get_device_name(0) if contenders else None,
        "versions": versions((*("edgessl", "torch", "numpy", "onnx", "onnxruntime-gpu", "onnxruntime"), *_TENSORRT)),
        "settings": {"objective": "vicreg", "optimizer": "sgd", "flavour": "portable", "tf32": False, "turns": turns},
        "rows": rows,
    }


def _graph(folder: str, file: str, trace: Callable[[], onnx.ModelProto]) -> bytes:
    """A graph from the folder, or exported now and left there."""
    path = Path(folder, file)
    if folder and path.is_file():
        return path.read_bytes()
    data = trace().SerializeToString()
    if folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return data


_TENSORRT = ("tensorrt", "tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13")


def _measure(
    name: str,
    graph: str,
    batch_size: int,
    model: bytes,
    feeds: dict[str, Array],
    torch_of: Callable[[Mapping[str, Array]], tuple[Callable[[], Any], list[str]]],
    contenders: Sequence[str],
    turns: int,
    progress: Callable[[str], None],
) -> list[Row]:
    """A row per contender."""
    if not contenders:
        return []
    with open_door("cpu", model, threads=4) as reference:
        expected = reference.run(feeds)
    rows = []
    for contender in contenders:
        progress(f"{name}, {graph}, {batch_size} samples: {contender}")
        row: Row = {"encoder": name, "graph": graph, "batch_size": batch_size, "contender": contender}
        row |= dict.fromkeys(("median_ms", "p90_ms", "worst_error", "worst_output", "setup_s", "error"))
        try:
            began = time.perf_counter()
            if contender == "torch":
                once, outputs = torch_of(feeds)
                row |= _verdict(dict(zip(outputs, (v.cpu().numpy() for v in once()), strict=True)), expected)
                row |= _times(once, turns)
            else:
                with _open(contender, model, batch_size) as door:
                    row["setup_s"] = round(time.perf_counter() - began, 3)
                    row |= _verdict(door.run(feeds), expected)
                    row |= _times(door.resident(feeds), turns)
        except EdgeSSLError as error:
            row["error"] = str(error)
        except Exception as error:  # whatever a library raises is a result here, not a crash
            row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def _open(contender: str, model: bytes, batch_size: int) -> Door:
    door, options, flavour = DOORS[contender]
    if not flavour:
        return open_door(door, model, options=options)  # type: ignore[arg-type]
    library = load_library(flavour)  # type: ignore[arg-type]
    plan = build_plan(library, model, EngineSettings(batch=(1, batch_size, max(batch_size, 2))))
    return open_door("engine", plan, library=library)


def _times(once: Callable[[], Any], turns: int) -> Row:
    for _ in range(WARM):
        once()
    taken = []
    for _ in range(turns):
        began = time.perf_counter()
        once()
        taken.append(1e3 * (time.perf_counter() - began))
    return {"median_ms": round(float(np.median(taken)), 4), "p90_ms": round(float(np.quantile(taken, 0.9)), 4)}


def _verdict(found: Mapping[str, Array], expected: Mapping[str, Array]) -> Row:
    errors = relative_errors(found, expected)
    worst = max(errors, key=lambda name: errors[name])
    return {"worst_error": float(f"{errors[worst]:.3g}"), "worst_output": worst}


def _step_feeds(step: TrainStep, name: str, n: int) -> dict[str, Array]:
    feeds: dict[str, Array] = {slot: value.numpy() for slot, value in step.initial_state().items()}
    feeds |= {"batch": random_fields(input_of(name), n, 0), "noise": step_noise(0, 0, step.noise_shape(n))}
    return feeds | {f"hyper.{key}": value.numpy() for key, value in hyper_tensors(step.hyper).items()}


def _done(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    torch.cuda.synchronize()
    return values


def _torch_encoder(step: TrainStep, feeds: Mapping[str, Array]) -> tuple[Callable[[], Any], list[str]]:
    moved = copy.deepcopy(step.parts).cuda().encoder  # the step itself is traced later, on the CPU
    x = torch.from_numpy(feeds["x"]).cuda()

    def once() -> tuple[torch.Tensor, ...]:
        with torch.no_grad(), evaluation_mode(moved):
            return _done(moved(x))

    return once, ["embedding"]


def _torch_step(step: TrainStep, feeds: Mapping[str, Array]) -> tuple[Callable[[], Any], list[str]]:
    on_gpu = {name: torch.from_numpy(np.asarray(value)).cuda() for name, value in feeds.items()}
    state = {slot: on_gpu[slot] for slot in step.slot_names}
    hyper = {key: on_gpu[f"hyper.{key}"] for key in step.hyper}

    def once() -> tuple[torch.Tensor, ...]:
        new, metrics = step(state, on_gpu["batch"], on_gpu["noise"], hyper)
        return _done(*following(state, new), *(metrics[name] for name in step.metrics))

    return once, [*(f"next.{slot}" for slot in step.slot_names), *step.metrics]
