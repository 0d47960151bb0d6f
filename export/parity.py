"""The parity gate: exported graphs, run by stock onnxruntime, against torch. What fails it is never written.

Inputs are fresh random fields (smooth structure plus noise, in the input's own units), never the data the graphs
were made with. The figures returned here go into the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from edgessl.device.noise import step_noise
from edgessl.device.runtime import SessionProfile
from edgessl.device.specs import InputSpec
from edgessl.encoders.base import Encoder
from edgessl.errors import ParityError
from edgessl.step import TrainStep, hyper_tensors

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = 5
STEP_TOLERANCE = 1e-4  # relative L2 error of every slot after STEPS consecutive steps
DRAWS = 8
LEARNING_RATE = 1e-3
ENCODER_TOLERANCE = 1e-4  # relative L2 error of the embeddings
INT8_MIN_COSINE = 0.95  # mean cosine similarity of int8 and float embeddings


def random_fields(spec: InputSpec, n: int, seed: int) -> Array:
    """Random samples `(n, *spec.shape)` float32 with structure: coarse Gaussian fields, stretched, plus white noise.

    White noise alone makes every sample look the same to an encoder, and a batch objective then amplifies rounding.
    """
    rng = np.random.default_rng([seed, 41])
    axes = spec.shape[1:]
    coarse = rng.standard_normal((n, spec.shape[0], *[max(2, a // 8) for a in axes]))
    for axis, size in enumerate(axes, start=2):
        at = np.linspace(0, coarse.shape[axis] - 1, size)
        low = np.floor(at).astype(int).clip(0, coarse.shape[axis] - 2)
        shape = [1] * coarse.ndim
        shape[axis] = size
        weight = (at - low).reshape(shape)
        coarse = coarse.take(low, axis) * (1 - weight) + coarse.take(low + 1, axis) * weight
    field = 1.5 * coarse + 0.3 * rng.standard_normal(coarse.shape)
    channel = (1, -1, *[1] * len(axes))
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
    draw of inputs says nothing about the graph, so up to `DRAWS` fresh draws are tried: a wrong graph fails them all.
    The gate steps at a learning rate of at most `LEARNING_RATE`, where a step does not amplify rounding.

    Returns:
        `slots`: the errors by slot of the draw that passed; `draws`: the worst slot's error of every draw tried.

    Raises:
        ParityError: no draw keeps every slot within `STEP_TOLERANCE`.
    """
    session = _session(model)
    values = {**hyper, "lr": min(hyper["lr"], LEARNING_RATE)}
    worst: list[float] = []
    for draw in range(DRAWS):
        errors = _step_errors(step, state, values, session, spec, batch_size, seed * DRAWS + draw)
        slot = max(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
        worst.append(errors[slot])
        if errors[slot] <= STEP_TOLERANCE:
            return {"slots": errors, "draws": worst, "steps": STEPS}
    raise ParityError(
        f"training step: in {DRAWS} draws of random inputs no run of the graph stayed within {STEP_TOLERANCE:.0e} of "
        f"torch after {STEPS} steps (relative errors {', '.join(f'{e:.1e}' for e in worst)}, last in slot {slot!r}). "
        "No bundle was written"
    )


def _step_errors(
    step: TrainStep,
    state: Mapping[str, torch.Tensor],
    hyper: Mapping[str, float],
    session: ort.InferenceSession,
    spec: InputSpec,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    outputs = [o.name for o in session.get_outputs()]
    expected = dict(state)
    found: dict[str, Array] = {name: value.numpy().copy() for name, value in state.items()}
    scalars = hyper_tensors(hyper)
    for t in range(STEPS):
        batch = random_fields(spec, batch_size, seed * STEPS + t)
        noise = step_noise(seed, t, step.noise_shape(batch_size))
        expected, _ = step(expected, torch.from_numpy(batch), torch.from_numpy(noise), scalars)
        feeds = {
            **found,
            "batch": batch,
            "noise": noise,
            **{f"hyper.{k}": v.numpy() for k, v in scalars.items()},
        }
        results = dict(zip(outputs, session.run(None, feeds), strict=True))
        found = {name: results[f"next.{name}"] for name in found}
    return {name: relative_error(found[name], expected[name].numpy()) for name in found}


def encoder_parity(
    encoder: Encoder, theta: torch.Tensor, model: onnx.ModelProto, spec: InputSpec, seed: int = 0
) -> float:
    """Relative L2 error of 64 embeddings, graph (theta as an input) against torch.

    Raises:
        ParityError: beyond `ENCODER_TOLERANCE`.
    """
    x = random_fields(spec, 64, seed)
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(x)).numpy()
    (found,) = _session(model).run(None, {"theta": theta.numpy(), "x": x})
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
    with torch.no_grad():
        expected = encoder.eval()(torch.from_numpy(samples)).numpy()
    (found,) = _session(model).run(None, {"x": samples})
    a, b = unit_rows(expected), unit_rows(found)
    cosine = (a * b).sum(1)
    if not cosine.mean() >= INT8_MIN_COSINE:
        raise ParityError(
            f"int8 encoder: mean cosine similarity to the float encoder is {cosine.mean():.3f}; at least "
            f"{INT8_MIN_COSINE} "
            "is required. Calibrate with more, or more typical, samples, or export without int8"
        )
    k = min(neighbors, len(samples) - 1)
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


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    return SessionProfile().session(model.SerializeToString(), "exported graph")
