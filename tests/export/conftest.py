"""Traced steps and one exported bundle, made once per session: a trace takes 10 to 25 seconds on one core."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgessl.checkpoint import Checkpoint
from edgessl.data import Source, open_digits
from edgessl.device import Bundle
from edgessl.device.bundle.specs import InputSpec
from edgessl.encoders import Encoder
from edgessl.pretrain import input_spec, pretrain
from edgessl.recipe import Recipe, build_step, parse_recipe
from edgessl.step import TrainStep, hyper_tensors
from export import Graphs, export_bundle, trace_graphs

torch.set_num_threads(1)

BATCH = 8
# between them every objective, optimizer and kind of norm, and every family of encoders
CASES: dict[str, tuple[str, str, str, str]] = {
    "ds_cnn": ("ds_cnn_s", "byol", "adamw", "batch"),
    "cnn1d": ("cnn1d", "moco", "sgd", "group"),
    "vit": ("vit", "simclr", "adamw", "layer"),
    "resnet": ("resnet8", "vicreg", "lars", "group"),
}


@dataclass(frozen=True)
class Traced:
    """A recipe's step and the graphs traced from it."""

    recipe: Recipe
    spec: InputSpec
    step: TrainStep
    graphs: Graphs

    @property
    def train(self) -> onnx.ModelProto:
        """A copy of the training graph, to do anything with."""
        return copy.deepcopy(self.graphs.train)

    def encoder(self, theta: torch.Tensor) -> Encoder:
        """A copy of the encoder with the weights of `theta`, in evaluation mode."""
        parts = copy.deepcopy(self.step.parts)
        self.step.layout.load_module(parts, theta)
        encoder: Encoder = parts.encoder
        return encoder.eval()

    def trained(self, steps: int = 5) -> dict[str, torch.Tensor]:
        """A state some steps on, where gains are not 1 and teachers are not the network."""
        state, hyper = self.step.initial_state(), hyper_tensors(self.step.hyper)
        generator = torch.Generator().manual_seed(7)
        for _ in range(steps):
            noise = torch.rand(self.step.noise_shape(BATCH), generator=generator)
            state, _ = self.step(state, torch.rand((BATCH, *self.spec.shape), generator=generator), noise, hyper)
        return state


def _spec_of(encoder: str, digits: Source) -> InputSpec:
    if encoder == "cnn1d":
        return InputSpec("signal", (3, 32), (0.1, 0.0, 9.8), (2.0, 2.0, 3.0), "m/s^2")
    return input_spec(digits)


def _recipe_of(encoder: str, objective: str, optimizer: str, norm: str) -> Recipe:
    options: dict[str, Any] = {} if encoder == "vit" else {"norm": norm}
    return parse_recipe(
        {
            "encoder": {"name": encoder, "options": options},
            "objective": {"name": objective},
            "optimizer": optimizer,
            "batch_size": 100,
            "epochs": 1,
        }
    )


@pytest.fixture(scope="session")
def digits() -> Source:
    return open_digits("train", size=8)


@pytest.fixture(scope="session")
def trace(digits: Source) -> Callable[..., Traced]:
    """trace(encoder, objective, optimizer, norm): both graphs of a recipe."""

    def make(encoder: str, objective: str, optimizer: str, norm: str) -> Traced:
        recipe, spec = _recipe_of(encoder, objective, optimizer, norm), _spec_of(encoder, digits)
        return Traced(recipe, spec, build_step(recipe, spec), trace_graphs(build_step(recipe, spec), BATCH))

    return make


@pytest.fixture(scope="session")
def traced(trace: Callable[..., Traced]) -> Callable[[str], Traced]:
    """traced(name): the graphs of one of `CASES`, each made once."""
    return cache(lambda name: trace(*CASES[name]))


# resnet takes a minute to trace: slow, but CI runs it all the same
@pytest.fixture(
    scope="session", params=[pytest.param(n, marks=pytest.mark.slow if n == "resnet" else ()) for n in CASES]
)
def case(request: pytest.FixtureRequest, traced: Callable[[str], Traced]) -> Traced:
    """Each of the covering cases in turn."""
    return traced(request.param)


@pytest.fixture(scope="session")
def ds_cnn(traced: Callable[[str], Traced]) -> Traced:
    return traced("ds_cnn")


@pytest.fixture(scope="session")
def checkpoint(ds_cnn: Traced, digits: Source, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A few steps of pretraining on digits, as read back from a file."""
    path = tmp_path_factory.mktemp("pretrained") / "digits.ckpt"
    pretrain(ds_cnn.recipe, digits, checkpoint=path)
    return Checkpoint.load(path)


@pytest.fixture(scope="session")
def graphs(ds_cnn: Traced, checkpoint: Checkpoint) -> Graphs:
    return ds_cnn.graphs


@pytest.fixture(scope="session")
def samples(digits: Source) -> np.ndarray:
    """Real digits (320, 1, 8, 8), none of which the checkpoint's last batches decide."""
    return digits.take(np.arange(320))


@pytest.fixture(scope="session")
def bundle_path(
    checkpoint: Checkpoint, graphs: Graphs, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "digits-byol.edgessl"
    export_bundle(checkpoint, path, calibration=samples, graphs=graphs, hyper={"lr": 5e-4})
    return path


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)
