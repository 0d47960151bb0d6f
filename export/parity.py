"""The parity gate: exported graphs, run by stock onnxruntime, against torch. What fails it is never written.

Inputs are fresh random fields (smooth structure plus noise, in the input's own units), never the data the graphs
were made with. The figures returned here go into the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

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
LEARNING_RATE = 1e-3
ENCODER_TOLERANCE = 1e-4  # relative L2 error of the embeddings
INT8_MIN_COSINE = 0.95  # mean cosine similarity of int8 and float embeddings


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
    then differs by a finite amount although both are right, as torch in float32 differs from torch in float64. Such a
    draw of inputs says nothing about the graph, so up to `DRAWS` fresh draws are tried: a wrong graph fails each.
    Every step has hyperparameters of its own (`vary`), so that one baked into the graph shows.

    Where the step rounds (quantization-aware training), all is compared without the rounding itself, on both sides: see
    `edgessl.encoders.fake_quant.without_rounding`.

    Returns:
        `slots` and `metrics`: the errors by name of the draw that passed; `draws`: the worst error of every draw, in
        units of its tolerance.

    Raises:
        ParityError: no draw keeps every slot within `STEP_TOLERANCE` and every metric within `METRIC_TOLERANCE`.
    """
    rounding = rounds(step.parts)
    session = graph_session(_without_rounding(model) if rounding else model)
    worst: list[float] = []
    for draw in range(DRAWS):
        with without_rounding() if rounding else nullcontext():
            slots, metrics = _step_errors(step, state, hyper, session, spec, batch_size, seed * DRAWS + draw)
        excess = {name: error / STEP_TOLERANCE for name, error in slots.items()}
        excess |= {name: error / METRIC_TOLERANCE for name, error in metrics.items()}
        slot = max(excess, key=lambda name: excess[name] if np.isfinite(excess[name]) else np.inf)
        worst.append(excess[slot])
        if excess[slot] <= 1:
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


def _step_errors(
    step: TrainStep,
    state: Mapping[str, torch.Tensor],
    hyper: Mapping[str, float],
    session: ort.InferenceSession,
    spec: InputSpec,
    batch_size: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, float]]:
    outputs = [o.name for o in session.get_outputs()]
    metrics = dict.fromkeys(step.metrics, 0.0)
    expected = dict(state)
    found: dict[str, Array] = {name: value.numpy().copy() for name, value in state.items()}
    for t in range(STEPS):
        scalars = hyper_tensors(vary(hyper, seed, t))
        batch = random_fields(spec, batch_size, seed * STEPS + t)
        noise = step_noise(seed, t, step.noise_shape(batch_size))
        stored = stored_rows(step, batch_size, seed * STEPS + t)
        extra = {} if stored is None else {"stored": stored}
        past = None if stored is None else torch.from_numpy(stored)
        expected, values = step(expected, torch.from_numpy(batch), torch.from_numpy(noise), scalars, past)
        feeds = {
            **found,
            "batch": batch,
            "noise": noise,
            **extra,
            **{f"hyper.{k}": v.numpy() for k, v in scalars.items()},
        }
        results = dict(zip(outputs, session.run(None, feeds), strict=True))
        found = {name: results[f"next.{name}"] for name in found}
        errors = {n: relative_error(results[n], values[n].numpy()) for n in metrics}
        if STRATEGY_LOSS in errors:  # of the whole loss: right after consolidation it is rounding noise around zero
            difference, whole = results[STRATEGY_LOSS] - values[STRATEGY_LOSS].numpy(), values["loss"].numpy()
            errors[STRATEGY_LOSS] = float(abs(difference) / (abs(whole) + abs(values[STRATEGY_LOSS].numpy())))
        metrics = {n: max(e, errors[n]) for n, e in metrics.items()}
    return {name: relative_error(found[name], expected[name].numpy()) for name in found}, metrics


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


def int8_agreement(encoder: Encoder, model: onnx.ModelProto, samples: Array, neighbors: int = 10) -> dict[str, float]:
    """How well int8 embeddings of `samples` `(N, *shape)` stand for the float ones.

    Returns:
        Mean and minimum cosine similarity, and the mean overlap of each sample's `neighbors` nearest neighbours.

    Raises:
        ParityError: the mean cosine similarity is below `INT8_MIN_COSINE`.
    """
    (found,) = graph_session(model).run(None, {"x": samples})
    return agreement(found, embed(encoder, samples), "int8 encoder", neighbors)


def agreement(found: Array, expected: Array, what: str, neighbors: int = 10) -> dict[str, float]:
    """How well int8 representations `found` `(N, ...)` stand for the float ones `expected`; see `int8_agreement`.

    Raises:
        ParityError: the mean cosine similarity is below `INT8_MIN_COSINE`; it names `what`.
    """
    figures = compare(found, expected, neighbors)
    if not figures["cosine_mean"] >= INT8_MIN_COSINE:
        raise ParityError(
            f"{what}: mean cosine similarity to the float one is {figures['cosine_mean']:.3f}; at least "
            f"{INT8_MIN_COSINE} is required. Calibrate with more, or more typical, samples, or export without int8"
        )
    return figures


def compare(found: Array, expected: Array, neighbors: int = 10) -> dict[str, float]:
    """Mean and least cosine similarity of representations `found`, `expected` (N, ...), and the mean overlap of their
    nearest neighbours."""
    a, b = unit_rows(expected.reshape(len(expected), -1)), unit_rows(found.reshape(len(found), -1))
    cosine = (a * b).sum(1)
    k = min(neighbors, len(a) - 1)
    near_a, near_b = (np.argsort(-(z @ z.T) + 2 * np.eye(len(z)), axis=1)[:, :k] for z in (a, b))
    overlap = np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(near_a, near_b, strict=True)])
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "neighbor_overlap": float(overlap),
    }


def relative_error(found: Array, expected: Array) -> float:
    """`|found - expected| / |expected|` in L2; 0 where both are zero, infinite where only one is."""
    scale = float(np.linalg.norm(np.asarray(expected, np.float64)))
    difference = float(np.linalg.norm(np.asarray(found, np.float64) - np.asarray(expected, np.float64)))
    return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))


def unit_rows(z: Array) -> Array:
    """Rows of `z` `(N, D)` at unit L2 length."""
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def graph_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session of `model`, as a device would make it."""
    return SessionProfile().session(model.SerializeToString(), "exported graph")
