"""Chunks: the same gradient from less memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from edgessl.device.bundle.specs import InputSpec
from edgessl.errors import ConfigError
from edgessl.objectives import OBJECTIVES
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import State, TrainStep, hyper_tensors
from edgessl.views import default_views

SPEC = InputSpec("image", (1, 16, 16), (0.4,), (0.3,), "intensity 0..1")
BATCH = 9
NOT_HERE = ("seed", "colorization")  # need a teacher's checkpoint, and colours
IMAGE_OBJECTIVES = [name for name, found in OBJECTIVES.items() if "image" in found.kinds and name not in NOT_HERE]


def make(objective: str, encoder: str = "vit") -> TrainStep:
    return build_step(
        parse_recipe({"encoder": {"name": encoder}, "objective": {"name": objective}, "batch_size": 16}), SPEC
    )


def inputs(step: TrainStep, dtype: torch.dtype) -> tuple[State, torch.Tensor, torch.Tensor, State]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((BATCH, *SPEC.shape), generator=generator, dtype=dtype)
    noise = torch.rand(step.noise_shape(BATCH), generator=generator, dtype=dtype)
    state = {name: value.to(dtype) for name, value in step.initial_state().items()}
    return state, x, noise, {name: value.to(dtype) for name, value in hyper_tensors(step.hyper).items()}


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("encoder", ["vit", "ds_cnn_s"])
def test_the_gradient_is_that_of_the_whole_batch(encoder: str, chunk: int) -> None:
    step = make("simclr", encoder)
    given = inputs(step, torch.float64)
    whole, chunked = step.gradient(*given), step.gradient(*given, chunk=chunk)
    assert whole.direction.norm() > 1e-3
    assert (chunked.direction - whole.direction).norm() < 1e-12 * whole.direction.norm()
    torch.testing.assert_close(chunked.embeddings, whole.embeddings, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", IMAGE_OBJECTIVES)
def test_for_every_objective(objective: str) -> None:
    step = make(objective, "vit" if objective in ("mae", "beit", "data2vec", "simmim") else "ds_cnn_s")
    given = inputs(step, torch.float32)
    whole, chunked = step.gradient(*given), step.gradient(*given, chunk=4)
    assert (chunked.direction - whole.direction).norm() < 1e-5 * whole.direction.norm()
    torch.testing.assert_close(chunked.loss, whole.loss, rtol=1e-6, atol=1e-6)
    assert set(chunked.slots) == set(whole.slots)
    for name, value in whole.slots.items():
        torch.testing.assert_close(chunked.slots[name], value, rtol=1e-5, atol=1e-5)


def test_with_bfloat16_networks() -> None:
    step = make("simclr")
    given = inputs(step, torch.float32)
    exact = step.gradient(*given)
    whole = step.gradient(*given, autocast=torch.bfloat16)
    chunked = step.gradient(*given, autocast=torch.bfloat16, chunk=4)
    torch.testing.assert_close(chunked.embeddings, whole.embeddings, rtol=1e-6, atol=1e-6)
    # chunks round their parts of the weights' gradient to bfloat16 before they are added
    rounding = (whole.direction - exact.direction).norm()
    assert 0 < rounding < 0.1 * exact.direction.norm()
    assert (chunked.direction - exact.direction).norm() < 1.5 * rounding


def test_the_encoder_never_sees_more_rows_than_a_chunk() -> None:
    step = make("byol")  # student and teacher
    rows: list[int] = []
    step.parts.get_submodule("encoder").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    step.gradient(*inputs(step, torch.float32), chunk=4)
    assert max(rows) == 4
    assert sum(rows) == 3 * 2 * BATCH  # two views for student and teacher, and the student again going back


def test_batch_norm_is_refused() -> None:
    recipe = parse_recipe({"encoder": {"name": "ds_cnn_s", "options": {"norm": "batch"}}, "chunk": 8})
    with pytest.raises(ConfigError, match="chunk: batch norm would take each chunk for a batch of its own"):
        build_step(recipe, SPEC)


def test_the_exported_step_knows_nothing_of_chunks() -> None:
    spec = InputSpec("signal", (2, 32), (0.0,) * 2, (1.0,) * 2, "g")
    plain = build_step(parse_recipe({}), spec)
    chunked = build_step(parse_recipe({"chunk": 2}), spec)
    x, noise = torch.rand(8, 2, 32), torch.rand(plain.noise_shape(8))
    rows: list[int] = []
    chunked.parts.get_submodule("encoder").register_forward_hook(lambda module, args, out: rows.append(len(out)))
    assert default_views("signal", (2, 32)) == chunked.views.pipeline
    after, _ = chunked(chunked.initial_state(), x, noise, hyper_tensors(chunked.hyper))
    expected, _ = plain(plain.initial_state(), x, noise, hyper_tensors(plain.hyper))
    assert rows == [16]
    assert torch.equal(after["theta"], expected["theta"])


PEAK = """
import sys, torch
torch.set_num_threads(1)
from edgessl.device.bundle.specs import InputSpec
from edgessl.machine import peak_rss_mb
from edgessl.recipe import build_step, parse_recipe
from edgessl.step import hyper_tensors
batch, chunk, precision = int(sys.argv[1]), int(sys.argv[2]) or None, sys.argv[3]
spec = InputSpec("image", (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "i")
step = build_step(parse_recipe({"encoder": {"name": "resnet8"}}), spec)
state, hyper = step.initial_state(), hyper_tensors(step.hyper)
x, noise = torch.rand(batch, *spec.shape), torch.rand(step.noise_shape(batch))
autocast = torch.bfloat16 if precision == "bfloat16" else None
step.gradient(state, x[:2], noise[:2], hyper, autocast=autocast, chunk=1)  # what torch imports on the way, 60 MB
before = peak_rss_mb()
step.gradient(state, x, noise, hyper, autocast=autocast, chunk=chunk)
print(peak_rss_mb() - before)
"""


def peak_mb(batch: int, chunk: int, precision: str) -> float:
    """Memory that one gradient takes, measured in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, str(batch), str(chunk), precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_256_samples_fit_where_32_fit(precision: str) -> None:
    small, large, chunked = (peak_mb(*case, precision) for case in ((32, 0), (256, 0), (256, 32)))
    assert large > 3 * small  # what there is to save
    assert chunked < small + 10  # the batch itself, 3 MB, its views and their embeddings
