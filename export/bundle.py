"""The bundle writer: a checkpoint becomes graphs, the graphs pass the parity gate, and only then is it written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

import edgessl
from edgessl.checkpoint import Checkpoint
from edgessl.continual.consolidation import consolidated
from edgessl.continual.device_step import device_step
from edgessl.device import Bundle, Component, GraphSpec, Manifest, TensorSpec, pack
from edgessl.device.noise import probe_signs
from edgessl.device.storage import tensors
from edgessl.encoders import Encoder
from edgessl.encoders.cut import cut_encoder
from edgessl.errors import ConfigError, InputError
from edgessl.evaluate import embed
from edgessl.recipe import Part
from edgessl.step import State, TrainStep, hyper_tensors
from export.agreement import agreement
from export.backbone import quantize_backbone
from export.consolidation import consolidation_parity, trace_consolidation
from export.kernels import check_kernels
from export.lowerings import Lowerings
from export.opset import lower_opset
from export.parity import encoder_parity, step_parity
from export.quantize.floating import run_in_batches
from export.quantize.members import Following, Quantization, quantized_members, tail_members
from export.tensorrt.gate import gate
from export.trace import trace_encoder, trace_step
from export.tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]
HELD_OUT = 128  # calibration samples kept aside to judge the int8 encoder
FILES = {
    "train": "train.onnx",
    "encoder": "encoder.onnx",
    "encoder_int8": "encoder.int8.onnx",
    "encoder_trt": "encoder.trt.onnx",
    "encoder_int4": "encoder.int4.onnx",
    "tail_int8": "tail.int8.onnx",
    "ranges": "ranges.onnx",
    "backbone": "backbone.int8.onnx",
    "importance": "importance.onnx",
    "consolidate": "consolidate.onnx",
}
IMPORTANCE_SAMPLES = 64  # calibration samples on which a strategy measures what matters in what was pretrained


@dataclass(frozen=True)
class Graphs:
    """The graphs that depend on the architecture alone: weights are inputs, so several checkpoints can share them."""

    train: onnx.ModelProto
    encoder: onnx.ModelProto
    batch_size: int
    consolidation: Mapping[str, onnx.ModelProto] = field(default_factory=dict)
    portable: bool = False  # the step was promised to TensorRT as well
    forms: Mapping[str, str] = field(default_factory=dict)  # which form each convolution of the step took
    tuning: Tuning | None = None  # the measurements behind the forms, where they were made
    lines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # graph -> tensor -> line of the model


def trace_graphs(step: TrainStep, batch_size: int, *, portable: bool = False, tuning: Tuning | None = None) -> Graphs:
    """Trace the training step for batches of `batch_size`, the encoder for any, and what a strategy consolidates with.

    A `portable` step is one for GPUs that TensorRT takes too, up to twice as slow on a CPU. With a `tuning` of
    the same step its convolutions take the forms that were measured to be the fastest.

    Raises:
        ExportError: an operator has no portable form.
    """
    encoder = step.parts.encoder
    lowerings = Lowerings("portable" if portable else "fast", tuning.forms if tuning else None)
    lines: dict[str, dict[str, str]] = {"train": {}, "encoder": {}}
    train = lower_opset(trace_step(step, (batch_size, *encoder.input_shape), lowerings, lines["train"]))
    embeds = lower_opset(trace_encoder(encoder, step.layout, step.embeds, lines["encoder"]))
    forms = dict(sorted(lowerings.choices.taken.items()))
    return Graphs(train, embeds, batch_size, trace_consolidation(step), portable, forms, tuning, lines)


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
    cut: str | None = None,
    latent_views: Sequence[Part] | None = None,
    strategy: Part | None = None,
    quantization: Quantization | None = None,
) -> Bundle:
    """Export `checkpoint` to `path` (`.edgessl`).

    Args:
        checkpoint: what was pretrained.
        path: the file to write; an existing one is replaced, atomically.
        calibration: unlabelled samples `(N, *shape)` float32 for int8; None leaves the int8 encoder out.
        name: of the bundle; the path's stem by default.
        batch_size: samples per training step on the device.
        hyper: hyperparameters a device starts from, over the recipe's.
        graphs: from `trace_graphs` for a checkpoint of the same recipe, input, cut and strategy; traced here by
            default.
        seed: of the parity gate's random inputs.
        cut: a stage of the encoder: up to it the bundle has a frozen int8 backbone, behind it a step from latents; None
            lets the device train everything, from samples.
        latent_views: with a cut, the views of latents; None takes the defaults.
        strategy: against forgetting; None keeps the recipe's own. What it protects is what was pretrained: with
            calibration, importances are measured before the bundle is written, else only after the first drift.
        quantization: how the encoder is quantized and for what; int8 for ONNX Runtime's CPU by default.

    Raises:
        ExportError: the step cannot be expressed in standard ONNX, onnxruntime has no kernel for an operator, or what
            was made for TensorRT is not legal there.
        ParityError: a graph disagrees with torch; nothing was written.
        ConfigError, InputError: unknown hyperparameter, impossible cut, a cut without calibration, or calibration of
            the wrong shape.
    """
    path = Path(path)
    spec = checkpoint.input
    step, state = device_step(checkpoint, strategy=strategy, cut=cut, latent_views=latent_views)
    values = {**step.hyper, **(hyper or {})}
    if unknown := sorted(set(values) - set(step.hyper)):
        raise ConfigError(f"hyper: unknown {unknown[0]!r}; this step has {', '.join(step.hyper)}")
    if calibration is not None:
        _check_calibration(calibration, spec.shape)
    elif cut is not None:
        raise ConfigError(f"cut {cut!r}: an int8 backbone needs calibration; give unlabelled samples, some hundreds")
    graphs = graphs or trace_graphs(step, batch_size)
    encoder = checkpoint.encoder()
    models = {"train": graphs.train, "encoder": graphs.encoder, **graphs.consolidation}
    for key, model in models.items():
        check_kernels(model, key, graphs.lines.get(key, {}))
    quantized = None
    parity: dict[str, Any] = {}
    latent = None
    if calibration is not None:
        fitted, held_out = _split(calibration)
        wanted, theta = quantization or Quantization(), state[step.embeds].numpy()
        following = Following(graphs.encoder, step.embeds, theta, graphs.lines.get("encoder", {}))
        quantized = quantized_members(encoder, wanted, fitted, held_out, following if cut is None else None)
        if cut is not None:
            backbone, _ = cut_encoder(encoder, cut)
            models["backbone"], latent = quantize_backbone(backbone, cut, fitted)
            parity |= _cut_parity(encoder, backbone, models["backbone"], step.parts.encoder, held_out)
            if wanted.requantize:
                latents = [run_in_batches(models["backbone"], samples) for samples in (fitted, held_out)]
                quantized |= tail_members(wanted.settings, following, *latents)
        models |= quantized.models
        parity |= quantized.parity
    learned = latent.spec if latent else spec
    parity["train"] = step_parity(step, state, values, graphs.train, learned, graphs.batch_size, seed)
    parity["encoder"] = encoder_parity(step.parts.encoder, state["theta"], graphs.encoder, learned, seed, step.embeds)
    parity |= consolidation_parity(step, state, values, graphs.consolidation, learned, seed)
    lines = {**graphs.lines, "encoder_trt": graphs.lines.get("encoder", {})}  # it is made of that graph
    parity["tensorrt"] = gate(models, {"encoder_trt", "train"} if graphs.portable else {"encoder_trt"}, lines)
    if calibration is not None and "importance" in models:
        inputs = run_in_batches(models["backbone"], calibration) if cut is not None else calibration
        state = _protected(step, state, values, inputs)
    members = {FILES[key]: model.SerializeToString(deterministic=True) for key, model in models.items()}
    members |= quantized.files if quantized else {}
    arrays = {slot: state[slot].numpy() for slot in step.slot_names}  # theta first, as the manifest has it
    members["state.safetensors"] = tensors.dumps(arrays)
    slots = tuple(TensorSpec(slot, array.shape, str(array.dtype)) for slot, array in arrays.items())
    recipe = checkpoint.recipe
    kept = strategy or recipe.strategy
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
        graphs=_graph_specs(
            step, slots, spec.shape, graphs.batch_size, tuple(models), quantized.activations if quantized else 0
        ),
        opset=max(o.version for model in models.values() for o in model.opset_import if o.domain == ""),
        ir_version=max(model.ir_version for model in models.values()),
        parity=parity,
        provenance={
            **checkpoint.provenance,
            "edgessl": edgessl.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "pretraining_steps": checkpoint.step,
            "step": _step_provenance(graphs),
            "exported": _now(),
        },
        latent=latent,
        strategy=Component(kept.name, kept.options) if kept else None,
    )
    return pack(path, manifest, members)


def _step_provenance(graphs: Graphs) -> dict[str, Any]:
    found = {"flavour": "portable" if graphs.portable else "fast", "forms": dict(graphs.forms)}
    return found | {"tuning": graphs.tuning.to_json()} if graphs.tuning else found


def _now() -> str:
    """The time in UTC; that of SOURCE_DATE_EPOCH where it is set, for the same bytes from the same input
    (https://reproducible-builds.org/specs/source-date-epoch)."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.now(UTC) if fixed is None else datetime.fromtimestamp(int(fixed), UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _protected(step: TrainStep, state: State, hyper: Mapping[str, float], inputs: Array) -> State:
    """`state` after a consolidation on some of `inputs`, evenly spaced."""
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(len(inputs), IMPORTANCE_SAMPLES)).round().astype(np.int64))
    probes = torch.from_numpy(probe_signs(0, 0, (len(rows), step.parts.encoder.embedding_dim)))
    return consolidated(step, state, torch.from_numpy(inputs[rows]), probes, hyper_tensors(hyper))


def _cut_parity(
    encoder: Encoder, backbone: Encoder, model: onnx.ModelProto, tail: Encoder, samples: Array
) -> dict[str, dict[str, float]]:
    """Latents of the int8 backbone against the float ones, and the tail's embeddings of them against the encoder's."""
    latents = run_in_batches(model, samples)
    return {
        "backbone": agreement(latents, embed(backbone, samples), "int8 backbone"),
        "embedding": agreement(embed(tail, latents), embed(encoder, samples), "embedding from int8 latents"),
    }


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
    shape: tuple[int, ...],
    batch_size: int,
    keys: tuple[str, ...],
    activations: int,
) -> dict[str, GraphSpec]:
    trained = step.parts.encoder  # the whole encoder of samples of `shape`, or the tail of latents
    samples, x = TensorSpec("x", ("N", *shape)), TensorSpec("x", ("N", *trained.input_shape))
    embedding, latent = TensorSpec("embedding", ("N", trained.embedding_dim)), TensorSpec("latent", x.shape)
    stored = (TensorSpec("stored", (batch_size, trained.embedding_dim)),) if step.stores else ()
    shown = next(s for s in slots if s.name == step.embeds)
    one, probe = TensorSpec("x", (1, *trained.input_shape)), TensorSpec("probe", (1, trained.embedding_dim))
    importance = TensorSpec("importance", slots[0].shape)
    measured = (importance,) if "importance" in keys else ()
    batch = TensorSpec("batch", (batch_size, *trained.input_shape))
    noise = TensorSpec("noise", step.noise_shape(batch_size))
    scalars = tuple(TensorSpec(f"hyper.{name}", ()) for name in step.hyper)
    following = tuple(TensorSpec(f"next.{s.name}", s.shape, s.dtype) for s in slots)
    metrics = tuple(TensorSpec(name, ()) for name in step.metrics)
    sides = {
        "encoder": ((shown, x), (embedding,)),
        "encoder_int8": ((samples,), (embedding,)),
        "encoder_trt": ((samples,), (embedding,)),
        "encoder_int4": ((samples,), (embedding,)),
        "tail_int8": ((x,), (embedding,)),
        "ranges": ((shown, x), (embedding, TensorSpec("low", (activations,)), TensorSpec("high", (activations,)))),
        "backbone": ((samples,), (latent,)),
        "train": ((*slots, batch, noise, *scalars, *stored), (*following, *metrics)),
        "importance": ((slots[0], one, probe), (importance,)),
        "consolidate": ((*slots, *scalars, *measured), following),
    }
    return {key: GraphSpec(FILES[key], *sides[key]) for key in keys}
