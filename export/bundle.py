"""The bundle writer: a checkpoint becomes graphs, the graphs pass the parity gate, and only then is it written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import edgessl
from edgessl.checkpoint import Checkpoint
from edgessl.device import Bundle, Component, GraphSpec, Manifest, TensorSpec, pack, tensors
from edgessl.errors import ConfigError, InputError
from edgessl.step import METRICS, TrainStep
from export.parity import encoder_parity, int8_agreement, step_parity
from export.quantize import quantize_encoder
from export.trace import IR_VERSION, OPSET, trace_encoder, trace_step

Array = np.ndarray[Any, np.dtype[Any]]
HELD_OUT = 128  # calibration samples kept aside to judge the int8 encoder


@dataclass(frozen=True)
class Graphs:
    """The graphs that depend on the architecture alone: weights are inputs, so several checkpoints can share them."""

    train: onnx.ModelProto
    encoder: onnx.ModelProto
    batch_size: int


def trace_graphs(step: TrainStep, batch_size: int) -> Graphs:
    """Trace the training step for batches of `batch_size` and the encoder for any.

    Raises:
        ExportError: an operator has no portable form.
    """
    encoder = step.parts.encoder
    train = trace_step(step, (batch_size, *encoder.input_shape))
    return Graphs(train, trace_encoder(encoder, step.layout), batch_size)


def export_bundle(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    calibration: Array | None,
    name: str | None = None,
    batch_size: int = 32,
    hyper: Mapping[str, float] | None = None,
    graphs: Graphs | None = None,
    seed: int = 0,
) -> Bundle:
    """Export `checkpoint` to `path` (`.edgessl`).

    Args:
        checkpoint: what was pretrained.
        path: the file to write; an existing one is replaced, atomically.
        calibration: unlabelled samples `(N, *shape)` float32 for int8; None leaves the int8 encoder out.
        name: of the bundle; the path's stem by default.
        batch_size: samples per training step on the device.
        hyper: hyperparameters a device starts from, over the recipe's.
        graphs: from `trace_graphs` for a checkpoint of the same recipe and input; traced here by default.
        seed: of the parity gate's random inputs.

    Raises:
        ExportError: the step cannot be expressed in standard ONNX.
        ParityError: a graph disagrees with torch; nothing was written.
        ConfigError, InputError: unknown hyperparameter, or calibration of the wrong shape.
    """
    path = Path(path)
    spec, step = checkpoint.input, checkpoint.train_step()
    values = {**step.hyper, **(hyper or {})}
    if unknown := sorted(set(values) - set(step.hyper)):
        raise ConfigError(f"hyper: unknown {unknown[0]!r}; this step has {', '.join(step.hyper)}")
    if calibration is not None:
        _check_calibration(calibration, spec.shape)
    graphs = graphs or trace_graphs(step, batch_size)
    encoder = checkpoint.encoder()
    parity: dict[str, Any] = {
        "train": step_parity(step, checkpoint.state, values, graphs.train, spec, graphs.batch_size, seed),
        "encoder": encoder_parity(encoder, checkpoint.state["theta"], graphs.encoder, spec, seed),
    }
    models = {"train": graphs.train, "encoder": graphs.encoder}
    if calibration is not None:
        fitted, held_out = _split(calibration)
        models["encoder_int8"] = quantize_encoder(encoder, fitted)
        parity["encoder_int8"] = int8_agreement(encoder, models["encoder_int8"], held_out)
    files = {"train": "train.onnx", "encoder": "encoder.onnx", "encoder_int8": "encoder.int8.onnx"}
    members = {files[key]: model.SerializeToString(deterministic=True) for key, model in models.items()}
    state = {slot: checkpoint.state[slot].numpy() for slot in step.slot_names}  # theta first, as the manifest has it
    members["state.safetensors"] = tensors.dumps(state)
    slots = tuple(TensorSpec(slot, array.shape, str(array.dtype)) for slot, array in state.items())
    recipe = checkpoint.recipe
    manifest = Manifest(
        name=name or path.stem,
        input=spec,
        embedding_dim=encoder.embedding_dim,
        encoder=Component(recipe.encoder.name, recipe.encoder.options),
        objective=Component(recipe.objective.name, recipe.objective.options),
        optimizer=Component(recipe.optimizer),
        views=tuple(Component(v["name"], v["options"]) for v in step.views.pipeline.to_json()),
        parameters=step.layout.entries,
        slots=slots,
        hyper=values,
        graphs=_graph_specs(step, slots, encoder.embedding_dim, spec.shape, graphs.batch_size, files, tuple(models)),
        opset=OPSET,
        ir_version=IR_VERSION,
        parity=parity,
        provenance={
            **checkpoint.provenance,
            "edgessl": edgessl.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "pretraining_steps": checkpoint.step,
            "exported": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    )
    return pack(path, manifest, members)


def _check_calibration(samples: Array, shape: tuple[int, ...]) -> None:
    if samples.shape[1:] != shape or samples.dtype != np.float32:
        raise InputError(f"calibration: expected float32 (N, *{shape}), found {samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all():
        raise InputError("calibration: samples hold NaN or infinity; leave those out")


def _split(calibration: Array) -> tuple[Array, Array]:
    """Samples to calibrate with and samples to judge by: disjoint, interleaved so that both see the whole stream.

    Fewer than 32 are too few to set any aside; they serve for both.
    """
    if len(calibration) < 32:
        return calibration, calibration
    keep = max(2, -(-len(calibration) // HELD_OUT))
    held_out = np.arange(len(calibration)) % keep == 0
    return calibration[~held_out], calibration[held_out]


def _graph_specs(
    step: TrainStep,
    slots: tuple[TensorSpec, ...],
    embedding_dim: int,
    shape: tuple[int, ...],
    batch_size: int,
    files: Mapping[str, str],
    keys: tuple[str, ...],
) -> dict[str, GraphSpec]:
    x, embedding = TensorSpec("x", ("N", *shape)), TensorSpec("embedding", ("N", embedding_dim))
    batch = TensorSpec("batch", (batch_size, *shape))
    noise = TensorSpec("noise", step.noise_shape(batch_size))
    scalars = tuple(TensorSpec(f"hyper.{name}", ()) for name in step.hyper)
    following = tuple(TensorSpec(f"next.{s.name}", s.shape, s.dtype) for s in slots)
    metrics = tuple(TensorSpec(name, ()) for name in METRICS)
    sides = {
        "encoder": ((slots[0], x), (embedding,)),
        "encoder_int8": ((x,), (embedding,)),
        "train": ((*slots, batch, noise, *scalars), (*following, *metrics)),
    }
    return {key: GraphSpec(files[key], *sides[key]) for key in keys}
