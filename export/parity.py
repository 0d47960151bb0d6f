"""The parity gate: exported graphs, run by stock onnxruntime, against torch. What fails it is never written.

Inputs are fresh random fields (smooth structure plus noise, in the input's own units), never the data the graphs
were made with. The figures returned here go into the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch

from edgessl.device.bundle.specs import InputSpec
from edgessl.device.noise import step_noise
from edgessl.device.runtime import SessionProfile
from edgessl.encoders.base import Encoder
from edgessl.encoders.fake_quant import rounds, without_rounding
from edgessl.errors import ParityError
from edgessl.evaluate import embed
from edgessl.step import STRATEGY_LOSS, TrainStep, hyper_tensors

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = 5
STEP_TOLERANCE = 1e-4  # relative L2 error of every slot after STEPS consecutive steps
METRIC_TOLERANCE = 1e-3  # relative error of loss, gradient norm, embedding std and effective rank, at every step
DRAWS = 8
LATITUDE = 10.0  # tolerances that torch in float32 may be off itself, and the graph with it
LEARNING_RATE = 1e-3
ENCODER_TOLERANCE = 1e-4  # relative L2 error of the embeddings


def random_fields(spec: InputSpec, n: int, seed: int) -> Array:
    """Random samples `(n, *spec.shape)` float32 with structure: coarse Gaussian fields, stretched, plus white noise.

    White noise alone makes every sample look the same to an encoder, and a batch objective then amplifies rounding.
    Pairs and features are one line of values; token ids are the field's ranks in the vocabulary.
    """
    rng = np.random.default_rng([seed, 41])
    channels, *axes = (1, *spec.shape) if len(spec.shape) == 1 else spec.shape
    coarse = rng.standard_normal((n, channels, *[max(2, a // 8) for a in axes]))
    for axis, size in enumerate(axes, start=2):
        at = np.linspace(0, coarse.shape[axis] - 1, size)
        low = np.floor(at).astype(int).clip(0, coarse.shape[axis] - 2)
        shape = [1] * coarse.ndim
        shape[axis] = size
        weight = (at - low).reshape(shape)
        coarse = coarse.take(low, axis) * (1 - weight) + coarse.take(low + 1, axis) * weight
    field = 1.5 * coarse + 0.3 * rng.standard_normal(coarse.shape)
    if spec.kind == "tokens":
        share = 1 / (1 + np.exp(-1.5 * field))
        return np.floor(spec.vocabulary * share).clip(0, spec.vocabulary - 1).astype(np.float32)
    field = field.reshape(n, *spec.shape)
    channel = (1, -1, *[1] * (len(spec.shape) - 1))
    x = np.asarray(spec.mean).reshape(channel) + np.asarray(spec.std).reshape(channel) * field
    return (x.clip(0, 1) if spec.kind == "image" else x).astype(np.float32)


def step_parity(
    step: TrainStep,
    state: Mapping[str, torch.Tensor],
    hyper: Mapping[str, float],
    model: onnx.ModelProto,
    spec: InputSpec,
    batch_size: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Relative L2 error of every slot after `STEPS` consecutive steps from `state`, graph against torch.

    A ReLU whose input lies within rounding of zero may open in one runtime and stay shut in the other; the gradient
    then differs by a finite amount although both are right. So does Adam's step where a gradient is zero but for
    rounding, which Adam divides by itself. What torch in float32 does then is no truth either: where a draw of inputs
    fails, torch in float64 is the judge, and the graph may be as far from that as torch in float32 is, up to
    `LATITUDE` tolerances. Up to `DRAWS` fresh draws are tried: a wrong graph fails each.
    Every step has hyperparameters of its own (`vary`), so that one baked into the graph shows.

    Where the step rounds (quantization-aware training), all is compared without the rounding itself, on both sides: see
    `edgessl.encoders.fake_quant.without_rounding`.

    Returns:
        `slots` and `metrics`: the errors by name of the draw that passed, against torch in float32, or in float64 where
        that was the judge; `draws`: the worst error of every draw, in units of what is allowed.

    Raises:
        ParityError: no draw keeps every slot within `STEP_TOLERANCE` and every metric within `METRIC_TOLERANCE`, or
            within what torch in float32 is off.
    """
    rounding = rounds(step.parts)
    session = graph_session(_without_rounding(model) if rounding else model)
    worst: list[float] = []
    slot = ""
    for draw in range(DRAWS):
        inputs = _inputs(step, hyper, spec, batch_size, seed * DRAWS + draw)
        found = _run_graph(session, step, state, inputs)
        with without_rounding() if rounding else nullcontext():
            expected = _run_torch(step, state, inputs, torch.float32)
            slots, metrics = _errors(found, expected)
            slot, excess = _worst(slots, metrics, {}, {})
            if not excess <= 1:
                exact = _run_torch(step, state, inputs, torch.float64)
                slots, metrics = _errors(found, exact)
                slot, excess = _worst(slots, metrics, *_errors(expected, exact))
        worst.append(excess)
        if excess <= 1:
            return {"slots": slots, "metrics": metrics, "draws": worst, "steps": STEPS}
    raise ParityError(
        f"training step: in {DRAWS} draws of random inputs no run of the graph stayed within {STEP_TOLERANCE:.0e} of "
        f"torch after {STEPS} steps (worst errors {', '.join(f'{e:.1e}' for e in worst)} x tolerance, last in "
        f"{slot!r}). No bundle was written"
    )


def _without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which Round passes its input on."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "Round":
            node.op_type = "Identity"
    return copy


class _Inputs(NamedTuple):
    """Of one step."""

    batch: Array
    noise: Array
    stored: Array | None
    hyper: dict[str, torch.Tensor]


class _Run(NamedTuple):
    """Every slot after the last step, and the metrics of each."""

    slots: dict[str, Array]
    metrics: list[dict[str, Array]]


def _inputs(step: TrainStep, hyper: Mapping[str, float], spec: InputSpec, batch_size: int, seed: int) -> list[_Inputs]:
    return [
        _Inputs(
            random_fields(spec, batch_size, seed * STEPS + t),
            step_noise(seed, t, step.noise_shape(batch_size)),
            stored_rows(step, batch_size, seed * STEPS + t),
            hyper_tensors(vary(hyper, seed, t)),
        )
        for t in range(STEPS)
    ]


def _run_graph(
    session: ort.InferenceSession, step: TrainStep, state: Mapping[str, torch.Tensor], inputs: list[_Inputs]
) -> _Run:
    outputs = [o.name for o in session.get_outputs()]
    slots, metrics = {name: value.numpy().copy() for name, value in state.items()}, []
    for batch, noise, stored, hyper in inputs:
        extra = {} if stored is None else {"stored": stored}
        scalars = {f"hyper.{name}": value.numpy() for name, value in hyper.items()}
        found = session.run(None, {**slots, "batch": batch, "noise": noise, **extra, **scalars})
        results = dict(zip(outputs, found, strict=True))
        slots = {name: results[f"next.{name}"] for name in slots}
        metrics.append({name: results[name] for name in step.metrics})
    return _Run(slots, metrics)


def _run_torch(step: TrainStep, state: Mapping[str, torch.Tensor], inputs: list[_Inputs], dtype: torch.dtype) -> _Run:
    def as_dtype(value: torch.Tensor) -> torch.Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    slots, metrics = {name: as_dtype(value) for name, value in state.items()}, []
    for batch, noise, stored, hyper in inputs:
        past = None if stored is None else as_dtype(torch.from_numpy(stored))
        scalars = {name: as_dtype(value) for name, value in hyper.items()}
        slots, values = step(slots, as_dtype(torch.from_numpy(batch)), as_dtype(torch.from_numpy(noise)), scalars, past)
        metrics.append({name: values[name].numpy() for name in step.metrics})
    return _Run({name: value.numpy() for name, value in slots.items()}, metrics)


def _errors(found: _Run, expected: _Run) -> tuple[dict[str, float], dict[str, float]]:
    """Relative errors of the slots, and of the metrics the largest of all steps."""
    worst = dict.fromkeys(expected.metrics[0], 0.0)
    for results, values in zip(found.metrics, expected.metrics, strict=True):
        errors = {name: relative_error(results[name], values[name]) for name in worst}
        if STRATEGY_LOSS in errors:  # of the whole loss: right after consolidation it is rounding noise around zero
            difference, whole = results[STRATEGY_LOSS] - values[STRATEGY_LOSS], values["loss"]
            errors[STRATEGY_LOSS] = float(abs(difference) / (abs(whole) + abs(values[STRATEGY_LOSS])))
        worst = {name: max(error, errors[name]) for name, error in worst.items()}
    return {name: relative_error(found.slots[name], expected.slots[name]) for name in expected.slots}, worst


def _worst(
    slots: dict[str, float], metrics: dict[str, float], own_slots: dict[str, float], own_metrics: dict[str, float]
) -> tuple[str, float]:
    """What is furthest off, and by how much in units of what is allowed: the tolerance, or torch's `own` error."""
    both = (slots, own_slots, STEP_TOLERANCE), (metrics, own_metrics, METRIC_TOLERANCE)
    excess = {
        name: error / min(max(own.get(name, 0.0), tolerance), LATITUDE * tolerance)
        for errors, own, tolerance in both
        for name, error in errors.items()
    }
    name = max(excess, key=lambda name: excess[name] if np.isfinite(excess[name]) else np.inf)
    return name, excess[name]


def stored_rows(step: TrainStep, batch_size: int, seed: int) -> Array | None:
    """Random embeddings `(batch_size, D)` float32 for a step that takes stored ones; None for others."""
    if not step.stores:
        return None
    shape = batch_size, step.parts.encoder.embedding_dim
    return np.random.default_rng([seed, 44]).standard_normal(shape).astype(np.float32)


def vary(hyper: Mapping[str, float], seed: int, t: int) -> dict[str, float]:
    """Hyperparameters for step `t` of the gate: far enough from the defaults that ignoring one is seen in some slot,
    and a learning rate of at most `LEARNING_RATE`, where a step does not amplify rounding."""
    rng = np.random.default_rng([seed, 43, t])
    varied: dict[str, float] = {}
    for name, value in hyper.items():
        if name == "lr":
            varied[name] = min(value, LEARNING_RATE) * rng.uniform(0.5, 1)
        elif name == "weight_decay":
            varied[name] = rng.uniform(0.1, 0.5)
        elif name == "clip_norm":
            varied[name] = 0.1 if t % 2 else value  # clipping and, mostly, not
        elif name.endswith("decay") or name.startswith("beta") or name == "momentum":
            varied[name] = rng.uniform(0.3, 0.9)
        else:
            varied[name] = value * rng.uniform(0.5, 2)
    return varied


def encoder_parity(
    encoder: Encoder, theta: torch.Tensor, model: onnx.ModelProto, spec: InputSpec, seed: int = 0, slot: str = "theta"
) -> float:
    """Relative L2 error of 64 embeddings, graph (`theta` as its input `slot`) against torch.

    Raises:
        ParityError: beyond `ENCODER_TOLERANCE`.
    """
    x = random_fields(spec, 64, seed)
    expected = embed(encoder, x)
    (found,) = graph_session(model).run(None, {slot: theta.numpy(), "x": x})
    error = relative_error(found, expected)
    if not error <= ENCODER_TOLERANCE:
        raise ParityError(
            f"encoder: embeddings differ from torch by {error:.2e} (relative); at most {ENCODER_TOLERANCE:.0e} "
            "is allowed"
        )
    return error


def relative_error(found: Array, expected: Array) -> float:
    """`|found - expected| / |expected|` in L2; 0 where both are zero, infinite where only one is."""
    scale = float(np.linalg.norm(np.asarray(expected, np.float64)))
    difference = float(np.linalg.norm(np.asarray(found, np.float64) - np.asarray(expected, np.float64)))
    return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))


def graph_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session of `model`, as a device would make it."""
    return SessionProfile().session(model.SerializeToString(), "exported graph")
