"""Small training steps on 8 x 8 images, and the data they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgessl.data import Source, Subset, open_digits
from edgessl.device.bundle.specs import InputSpec
from edgessl.recipe import Recipe, build_step, parse_recipe
from edgessl.step import TrainStep

torch.set_num_threads(1)  # the same sums in the same order, and one process per core under pytest-xdist

SPEC = InputSpec("image", (1, 8, 8), (0.4,), (0.3,), "intensity 0..1")


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    return SPEC


def _recipe(objective: str = "simclr", optimizer: str = "sgd", norm: str = "group", **more: Any) -> Recipe:
    values = {
        "encoder": {"name": "ds_cnn_s", "options": {"norm": norm}},
        "objective": {"name": objective},
        "optimizer": optimizer,
        **more,
    }
    return parse_recipe(values)


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """make_recipe(objective, optimizer, norm, **other keys)"""
    return _recipe


@pytest.fixture(scope="session")
def make_step() -> Callable[..., TrainStep]:
    """make_step(objective, optimizer, norm, **other keys of the recipe)"""
    return lambda *args, **more: build_step(_recipe(*args, **more), SPEC)


def _inputs(step: TrainStep, seed: int = 0, n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(step.noise_shape(n), generator=generator)
    return torch.rand((n, *SPEC.shape), generator=generator), noise


@pytest.fixture(scope="session")
def draw() -> Callable[..., tuple[Tensor, Tensor]]:
    """draw(step, seed=0, n=8): a batch and its noise, the same on every call."""
    return _inputs


@pytest.fixture(scope="session")
def digits() -> Source:
    """96 real handwritten digits of 8 x 8: three batches of 32."""
    return Subset(open_digits("train", size=8), np.arange(96))
