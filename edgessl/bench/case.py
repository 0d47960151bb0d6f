"""What every backend of the step bench is given: one folder with the network's start, data, and the losses to meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgessl.continual.device_step import latent_spec
from edgessl.device.bundle.specs import InputSpec
from edgessl.device.noise import step_noise
from edgessl.device.storage import tensors
from edgessl.encoders import ENCODERS, Encoder, build_encoder
from edgessl.encoders.cut import cut_encoder
from edgessl.errors import ConfigError, ExportError
from edgessl.objectives import build_objective
from edgessl.optim import build_optimizer
from edgessl.step import TrainStep, hyper_tensors
from edgessl.views import default_views
from export.parity import random_fields
from export.trace import trace_step

BATCHES = 4  # different batches that a backend cycles through
CHECKED_STEPS = 3  # consecutive steps whose losses every backend must reproduce before it is timed

IMAGE = InputSpec("image", (1, 28, 28), (0.5,), (0.25,), "intensity 0..1")
COLOR_IMAGE = InputSpec("image", (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "intensity 0..1")
SIGNAL = InputSpec("signal", (6, 128), (0.0,) * 6, (1.0,) * 6, "g and rad/s")
TOKENS = InputSpec("tokens", (1, 64), (0.0,), (1.0,), "bytes", 256)
INPUTS = {
    "resnet8": COLOR_IMAGE,
    "resnet18": COLOR_IMAGE,
    "vit": COLOR_IMAGE,
    "cnn1d": SIGNAL,
    "signal_transformer": SIGNAL,
    "token_transformer": TOKENS,
    "word_vectors": TOKENS,
}


def input_of(encoder: str) -> InputSpec:
    """The input the bench gives an encoder: 1x28x28, 3x32x32 for resnets and vit, 6x128 for signals, 64 token ids.

    `NAME@STAGE` is the part behind a stage, as a device with latent replay trains it; its input are latents.

    Raises:
        ConfigError: no such encoder.
    """
    name, _, cut = encoder.partition("@")
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    spec = INPUTS.get(name, IMAGE)
    return latent_spec(_encoder(encoder).input_shape) if cut else spec


def _encoder(name: str) -> Encoder:
    whole, _, cut = name.partition("@")
    spec = INPUTS.get(whole, IMAGE)
    encoder = build_encoder(whole, spec.shape, mean=spec.mean, std=spec.std)
    return cut_encoder(encoder, cut)[1] if cut else encoder


def build_step(encoder: str, objective: str, optimizer: str = "sgd") -> TrainStep:
    """The training step under test: default options, default views, momentum SGD or another optimizer."""
    spec = input_of(encoder)
    return TrainStep(
        _encoder(encoder),
        build_objective(objective),
        build_optimizer(optimizer),
        default_views(spec.kind, spec.shape),
    )


def prepare(folder: Path, encoder: str, objective: str, batch_size: int, optimizer: str = "sgd") -> TrainStep:
    """Write case.json and tensors.safetensors into `folder`; returns the step they start.

    tensors: `state.<slot>`, `batch` (BATCHES, N, *shape) and `noise` (BATCHES, N, width), float32.
    case.json: encoder, objective, optimizer, hyper, names of what is `trained`, and `losses` of the first CHECKED_STEPS
    steps by `TrainStep`.
    """
    step, spec = build_step(encoder, objective, optimizer), input_of(encoder)
    batch = np.stack([random_fields(spec, batch_size, seed) for seed in range(BATCHES)])
    noise = np.stack([step_noise(0, t, step.noise_shape(batch_size)) for t in range(BATCHES)])
    state = step.initial_state()
    arrays = {f"state.{name}": value.numpy() for name, value in state.items()}
    (folder / "tensors.safetensors").write_bytes(tensors.dumps({**arrays, "batch": batch, "noise": noise}))

    losses = []
    for t in range(CHECKED_STEPS):
        x, u = torch.from_numpy(batch[t]), torch.from_numpy(noise[t])
        state, metrics = step(state, x, u, hyper_tensors(step.hyper))
        losses.append(float(metrics["loss"]))
    trained = [entry.name for entry in step.layout.entries if entry.offset < step.layout.trained_end]
    case: dict[str, Any] = {"encoder": encoder, "objective": objective, "optimizer": optimizer, "hyper": step.hyper}
    case |= {"trained": trained, "losses": losses}
    (folder / "case.json").write_text(json.dumps(case))
    return step


def export(folder: Path, step: TrainStep, batch_size: int) -> str | None:
    """Write train.onnx into `folder`; returns the reason if the step has no ONNX form."""
    shape = step.views.pipeline.shape
    try:
        model = trace_step(step, (batch_size, *shape))
    except ExportError as error:
        return str(error)
    (folder / "train.onnx").write_bytes(model.SerializeToString())
    return None
